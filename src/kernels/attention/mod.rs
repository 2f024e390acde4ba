//! Attention and its gradients.

pub mod attention;
pub mod attention_key_gradient;
pub mod attention_query_gradient;
pub mod attention_statistics;
mod scores;

table! { attention, attention_key_gradient, attention_query_gradient, attention_statistics }
