// item_elem: what is moved are activations.
alias Item = Elem;
