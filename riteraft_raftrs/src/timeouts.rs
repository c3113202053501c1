//! Election timeouts that a seed decides (rule 24).

/// Draws a timeout in `min..max` ticks.
///
/// raft-rs redraws from the thread's random numbers at each change of role or term, which no simulation could repeat.
/// The count of own campaigns is part of the draw: without it two nodes that tie once would tie for ever.
pub fn draw(seed: u64, node_id: u64, term: u64, campaigns: u64, min: usize, max: usize) -> usize {
    let mixed = [node_id, term, campaigns]
        .iter()
        .fold(mix(seed), |hash, part| mix(hash ^ part));
    min + (mixed % (max - min) as u64) as usize
}

/// SplitMix64's step and finish: every bit of the input changes half of the output.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
