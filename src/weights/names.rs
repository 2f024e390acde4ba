//! Old spellings of tensors' names, for [`Checkpoint::rename`](super::Checkpoint::rename).

/// The present name of a tensor of a U-Net's attention block saved by diffusers before 0.15, as the
/// published `google/ddpm-*` files are: `query`, `key`, `value` and `proj_attn` are `to_q`, `to_k`, `to_v`
/// and `to_out.0`. `None` for every other name.
pub fn ddpm_attention_name(name: &str) -> Option<String> {
    let (path, parameter) = name.rsplit_once('.')?;
    let (block, layer) = path.rsplit_once('.')?;
    let (parent, number) = block.rsplit_once('.')?;
    // Only inside `….attentions.0`: a layer elsewhere may well be called `key`.
    let in_attention = parent.rsplit('.').next() == Some("attentions")
        && !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit());
    if !in_attention || !matches!(parameter, "weight" | "bias") {
        return None;
    }
    let layer = match layer {
        "query" => "to_q",
        "key" => "to_k",
        "value" => "to_v",
        "proj_attn" => "to_out.0",
        _ => return None,
    };
    Some(format!("{block}.{layer}.{parameter}"))
}

/// T5's token embedding is tied, and saved as `shared.weight`, as `encoder.embed_tokens.weight` or as both:
/// the second spelling is mapped to the first. `None` for every other name.
pub fn t5_name(name: &str) -> Option<String> {
    (name == "encoder.embed_tokens.weight").then(|| "shared.weight".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_attention_keys() {
        let cases = [
            ("mid_block.attentions.0.query.weight", Some("mid_block.attentions.0.to_q.weight")),
            ("up_blocks.1.attentions.12.key.bias", Some("up_blocks.1.attentions.12.to_k.bias")),
            ("down_blocks.1.attentions.0.value.weight", Some("down_blocks.1.attentions.0.to_v.weight")),
            ("attentions.0.proj_attn.bias", Some("attentions.0.to_out.0.bias")),
            ("mid_block.attentions.0.to_q.weight", None),
            ("mid_block.attentions.0.group_norm.weight", None),
            ("mid_block.attentions.x.query.weight", None),
            ("mid_block.attentions..query.weight", None),
            ("mid_block.resnets.0.key.weight", None),
            ("mid_block.attentions.0.query", None),
            ("query.weight", None),
            ("", None),
        ];
        for (old, new) in cases {
            assert_eq!(ddpm_attention_name(old).as_deref(), new, "{old}");
        }
    }

    #[test]
    fn t5_embedding() {
        assert_eq!(t5_name("encoder.embed_tokens.weight").as_deref(), Some("shared.weight"));
        assert_eq!(t5_name("shared.weight"), None);
        assert_eq!(t5_name("decoder.embed_tokens.weight"), None);
    }
}
