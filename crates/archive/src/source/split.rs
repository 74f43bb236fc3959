//! Dividing a prefix into ranges of keys that can be listed in parallel.
//!
//! A store tells keys only in order, and not how many there are. So the tree of the keys' characters is sampled: each
//! node is asked for one page. A node whose keys fit on the page is small; one that has more is divided by the next
//! character of its keys, until there are enough large ones. Ranges made of them are complete and do not overlap,
//! whatever was sampled: what a sample misses only makes them uneven.

use std::collections::BTreeSet;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::error::SourceError;
use super::store::Store;

/// Keys asked for to tell a large node from a small one.
const SAMPLE: usize = 1000;
/// Requests at once.
const AT_ONCE: usize = 192;
/// How often nodes are divided.
const ROUNDS: usize = 12;
/// Large nodes for each lane that is read at once, if there are as many: their sizes differ, and a lane that ends early
/// takes the next one.
const LARGE_PER_LANE: usize = 8;
/// Most ranges for each lane that is read at once.
const RANGES_PER_LANE: usize = 8;
/// Nodes up to which every printable character is tried as the next one of their keys, and not only those that their
/// sample shows.
const FEW: usize = 2;
/// Weight of a large node, in pages; its true size is not known.
const LARGE: usize = 4;

/// The keys that begin with a prefix.
#[derive(Debug, Clone)]
struct Node {
    prefix: String,
    first: String,
    last: String,
    keys: usize,
    is_large: bool,
    /// The characters of the sampled keys after the prefix.
    alphabet: BTreeSet<char>,
}

/// The keys, in order, that end one range and begin the next; none where the prefix is small, or `lanes` is 1.
pub(crate) async fn split(store: &Store, bucket: &str, prefix: &str, lanes: usize) -> Result<Vec<String>, SourceError> {
    if lanes <= 1 {
        return Ok(Vec::new());
    }
    let tree = Tree { store, bucket };
    let Some(root) = tree.node(prefix.to_owned()).await? else { return Ok(Vec::new()) };
    let mut nodes = vec![root];
    for _ in 0..ROUNDS {
        let large = nodes.iter().filter(|node| node.is_large).count();
        if large == 0 || large >= lanes * LARGE_PER_LANE {
            break;
        }
        let divided = tree.divide(&nodes).await?;
        if divided.len() == nodes.len() && divided.iter().zip(&nodes).all(|(new, old)| new.prefix == old.prefix) {
            break;
        }
        nodes = divided;
    }
    Ok(boundaries(&nodes, lanes * RANGES_PER_LANE))
}

struct Tree<'a> {
    store: &'a Store,
    bucket: &'a str,
}

impl Tree<'_> {
    /// Nothing where no key begins with the prefix.
    async fn node(&self, prefix: String) -> Result<Option<Node>, SourceError> {
        let listed = self.store.list(self.bucket, &prefix, None, SAMPLE).await?;
        let (Some(first), Some(last)) = (listed.objects.first(), listed.objects.last()) else { return Ok(None) };
        let tails = listed.objects.iter().filter_map(|object| object.key.get(prefix.len()..));
        let alphabet = tails.flat_map(str::chars).collect();
        let (first, last) = (first.key.clone(), last.key.clone());
        Ok(Some(Node { prefix, first, last, keys: listed.objects.len(), is_large: listed.more, alphabet }))
    }

    /// Replaces each large node by those of the next character of its keys.
    async fn divide(&self, nodes: &[Node]) -> Result<Vec<Node>, SourceError> {
        let (stems, is_few) = (self.stems(nodes).await?, nodes.len() <= FEW);
        // Collected, because a future with a borrowing iterator in it cannot be moved to another thread.
        let mut requests = Vec::new();
        for (index, (node, stem)) in nodes.iter().zip(&stems).enumerate() {
            let Some(stem) = stem else { continue };
            let printable = (' '..='~').filter(|_| is_few);
            let candidates: BTreeSet<char> = node.alphabet.iter().copied().chain(printable).collect();
            for next in candidates {
                let prefix = format!("{stem}{next}");
                requests.push(async move { Ok::<_, SourceError>((index, self.node(prefix).await?)) }.boxed());
            }
        }
        let mut answers = stream::iter(requests).buffered(AT_ONCE);
        let mut children: Vec<Vec<Node>> = vec![Vec::new(); nodes.len()];
        while let Some((index, node)) = answers.try_next().await? {
            if let (Some(node), Some(of)) = (node, children.get_mut(index)) {
                of.push(node);
            }
        }
        let replace = |(node, children): (&Node, Vec<Node>)| match children.len() {
            0 => vec![node.clone()],
            _ => children,
        };
        Ok(nodes.iter().zip(children).flat_map(replace).collect())
    }

    /// For each large node, the longest prefix that all its keys have in common; nothing for small ones.
    async fn stems(&self, nodes: &[Node]) -> Result<Vec<Option<String>>, SourceError> {
        let mut asked = Vec::new();
        for (index, node) in nodes.iter().enumerate().filter(|(_, node)| node.is_large) {
            let common = node.first.chars().zip(node.last.chars()).take_while(|(a, b)| a == b);
            let mut end = 0;
            for (character, _) in common {
                let start = end;
                end += character.len_utf8();
                if end > node.prefix.len() {
                    // The first key behind all that begin with these characters, or near it.
                    let next = char::from_u32(u32::from(character) + 1).unwrap_or(char::MAX);
                    let after = format!("{}{next}", node.first.get(..start).unwrap_or_default());
                    asked.push((index, end, node.prefix.clone(), after));
                }
            }
        }
        let requests: Vec<_> = asked
            .into_iter()
            .map(|(index, end, prefix, after)| {
                let request = async move {
                    let listed = self.store.list(self.bucket, &prefix, Some(&after), 1).await?;
                    Ok::<_, SourceError>((index, end, listed.objects.is_empty()))
                };
                request.boxed()
            })
            .collect();
        let mut answers = stream::iter(requests).buffered(AT_ONCE);
        let mut ends: Vec<usize> = nodes.iter().map(|node| node.prefix.len()).collect();
        while let Some((index, end, nothing_behind)) = answers.try_next().await? {
            if let Some(known) = ends.get_mut(index).filter(|known| nothing_behind && end > **known) {
                *known = end;
            }
        }
        let stem = |(node, end): (&Node, usize)| Some(node.first.get(..end)?.to_owned()).filter(|_| node.is_large);
        Ok(nodes.iter().zip(ends).map(stem).collect())
    }
}

/// Joins neighbouring nodes to at most `wanted` ranges of about the same weight.
fn boundaries(nodes: &[Node], wanted: usize) -> Vec<String> {
    // Stores can answer with fewer keys than they are asked for.
    let page = nodes.iter().map(|node| node.keys).max().unwrap_or(0);
    let weight = |node: &Node| if node.is_large { LARGE * page } else { node.keys };
    let each = nodes.iter().map(weight).sum::<usize>().div_ceil(wanted.max(1));
    let (mut boundaries, mut joined) = (Vec::new(), 0);
    for node in nodes {
        if joined >= each {
            boundaries.push(node.prefix.clone());
            joined = 0;
        }
        joined += weight(node);
    }
    boundaries.sort();
    boundaries.dedup();
    boundaries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_to_ranges_of_about_the_same_weight() {
        let node = |prefix: &str, keys, is_large| {
            let (prefix, first, last) = (prefix.to_owned(), String::new(), String::new());
            Node { prefix, first, last, keys, is_large, alphabet: BTreeSet::new() }
        };
        let nodes = [
            node("a", 10, false),
            node("b", 1000, true),
            node("c", 5, false),
            node("d", 1000, true),
            node("e", 9, true),
        ];
        assert_eq!(boundaries(&nodes, 3), ["c", "e"]);
        assert_eq!(boundaries(&nodes, 1), Vec::<String>::new());
        assert_eq!(boundaries(&[], 4), Vec::<String>::new());
    }
}
