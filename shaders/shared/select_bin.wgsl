// select_bin: which bin of counts the element of a rank falls into. Needs `const WG: u32`, the workgroup's size, and
// the file's `before`, the counts of a picture by parts. The bins are a multiple of WG and at most 2048.

// The bin, the rank among its elements, how many they are.
struct Bin { number: u32, rank: u32, count: u32 }

var<workgroup> merged: array<u32, 2048>;
var<workgroup> totals: array<u32, WG>;
var<workgroup> selected: Bin;

// From `first` on a part's `bins` counts lie every `row` numbers; there are so many parts. All invocations call it.
fn select_bin(first: u32, row: u32, parts: u32, bins: u32, rank: u32, lane: u32) -> Bin {
    for (var bin = lane; bin < bins; bin = bin + WG) {
        var count = 0u;
        for (var part = 0u; part < parts; part = part + 1u) {
            count = count + u32(before[first + part * row + bin]);
        }
        merged[bin] = count;
    }
    workgroupBarrier();
    // Each invocation has some neighbouring bins; how many elements are before and in them.
    let own = bins / WG;
    var sum = 0u;
    for (var bin = lane * own; bin < lane * own + own; bin = bin + 1u) {
        sum = sum + merged[bin];
    }
    totals[lane] = sum;
    workgroupBarrier();
    for (var apart = 1u; apart < WG; apart = apart * 2u) {
        var upto = totals[lane];
        if lane >= apart {
            upto = upto + totals[lane - apart];
        }
        workgroupBarrier();
        totals[lane] = upto;
        workgroupBarrier();
    }
    var below = totals[lane] - sum;
    if rank >= below && rank < below + sum {
        var bin = lane * own;
        while rank >= below + merged[bin] {
            below = below + merged[bin];
            bin = bin + 1u;
        }
        selected = Bin(bin, rank - below, merged[bin]);
    }
    workgroupBarrier();
    return selected;
}
