//! The widths of the largest published networks, cut to a few blocks, under WebGPU's default limits.
