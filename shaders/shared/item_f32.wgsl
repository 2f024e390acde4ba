// item_f32: what is moved stays f32.
alias Item = f32;
