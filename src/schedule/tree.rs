//! Double binary tree: sums rise to a root and the result comes back down the same edges, in two trees that carry half
//! the vector each. A rank that is a leaf in one tree is inside the other, so all ranks send about equally much.
//! Logarithmic depth, and chunks flow through it: a rank sends up the first bytes as soon as its children's have come
//! (watermarks), so a deep tree costs latency once and not once per byte.
//!
//! ```text
//!   n = 8, first tree                         second tree: mirrored (n even) or shifted by one (n odd)
//!
//!   0---------------\                                         /---------------7
//!               4                                                 3
//!       2               6                                 1               5
//!     1   3           5   7                             0   2           4   6
//! ```
//!
//! Depth ceil(log2 n), up and down; a rank sends at most S/2 up in both trees together with two times S/2 down in the
//! one where it has children: 2S at most. Source: Sanders, Speck and Träff, "Two-tree algorithms" (2009); the tree is
//! `ncclGetBtree`, the pair `ncclGetDtree` of NVIDIA/nccl `src/graph/trees.cc`.
#![forbid(unsafe_code)]

use super::draft::{Draft, Group, Piece};

/// The first tree or its mirror image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    First,
    Second,
}

/// How many trees there are over that many channels: as many of either side, at least one of each.
pub(super) fn count(channels: u8) -> u32 {
    u32::from(channels).next_multiple_of(2).max(2)
}

/// The most chunks that a rank sends in both trees together: one up in each, and two down in one of them.
pub(super) fn sent_max(n: usize) -> u32 {
    n.min(4) as u32
}

/// The length of the longest chain of messages, up and down the deeper tree.
pub(super) fn steps(n: usize) -> u32 {
    2 * n.next_power_of_two().ilog2()
}

/// The neighbours of one position.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    parent: Option<usize>,
    children: Vec<usize>,
}

/// Every piece of everybody ends reduced at its `into`, by way of one of the two trees.
pub(super) fn all_reduce(draft: &mut Draft, group: &Group, side: Side, pieces: &[Piece]) {
    let node = node(group.len(), group.at, side);
    for piece in pieces {
        let mut held = piece.have;
        for (index, &child) in node.children.iter().enumerate() {
            let last = node.parent.is_none() && index + 1 == node.children.len();
            draft.recv_reduce(group.port(child), held, piece.into, last);
            held = piece.into;
        }
        if let Some(parent) = node.parent {
            draft.send(group.port(parent), held);
            draft.recv(group.port(parent), piece.into);
        }
        for &child in &node.children {
            draft.send(group.port(child), piece.into);
        }
    }
}

fn node(n: usize, at: usize, side: Side) -> Node {
    let (seen_as, back): (usize, Box<dyn Fn(usize) -> usize>) = match side {
        Side::First => (at, Box::new(|position| position)),
        Side::Second if n % 2 == 1 => ((at + n - 1) % n, Box::new(move |position| (position + 1) % n)),
        Side::Second => (n - 1 - at, Box::new(move |position| n - 1 - position)),
    };
    let plain = first_tree(n, seen_as);
    Node { parent: plain.parent.map(&back), children: plain.children.into_iter().map(&back).collect() }
}

/// The tree in which odd positions are leaves. The lowest set bit of a position is its height: a parent has the next
/// bit set instead, or simply this bit cleared where that would be past the end. Position 0 is the root, above the one
/// node that has only the highest bit.
fn first_tree(n: usize, at: usize) -> Node {
    if at == 0 {
        return Node { parent: None, children: if n > 1 { vec![n.next_power_of_two() / 2] } else { vec![] } };
    }
    let height = at & at.wrapping_neg();
    let parent = Some((at ^ height) | (height << 1)).filter(|&parent| parent < n).unwrap_or(at ^ height);
    let mut children = Vec::new();
    if height > 1 {
        children.push(at - height / 2);
        // On the right the subtree may be cut short by the end; its root is then the highest node that is left.
        children.extend(strides_below(height).map(|stride| at + stride).find(|&child| child < n));
    }
    Node { parent: Some(parent), children }
}

/// height/2, height/4 .. 1.
fn strides_below(height: usize) -> impl Iterator<Item = usize> {
    (0..height.trailing_zeros()).rev().map(|bit| 1 << bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_and_children_agree_and_no_rank_is_inside_both_trees() {
        for n in 2..=130 {
            for side in [Side::First, Side::Second] {
                let nodes: Vec<Node> = (0..n).map(|at| node(n, at, side)).collect();
                assert_eq!(nodes.iter().filter(|node| node.parent.is_none()).count(), 1, "n = {n}: one root");
                for (at, node) in nodes.iter().enumerate() {
                    for &child in &node.children {
                        assert_eq!(nodes[child].parent, Some(at), "n = {n}, {side:?}: child {child} of {at}");
                    }
                    let depth = std::iter::successors(Some(at), |&at| nodes[at].parent).count() - 1;
                    assert!(depth <= n.next_power_of_two().ilog2() as usize, "n = {n}: {at} is {depth} deep");
                }
                assert_eq!(nodes.iter().map(|node| node.children.len()).sum::<usize>(), n - 1, "n = {n}: all hang on");
            }
            let both = (0..n).filter(|&at| {
                let inside = |side| node(n, at, side).children.len() > 1;
                inside(Side::First) && inside(Side::Second)
            });
            assert_eq!(both.count(), 0, "n = {n}: nobody has two children in both trees");
        }
    }
}
