//! Dividing a prefix into ranges of keys that can be listed in parallel.
//!
//! A store tells keys only in order, and not how many there are. So the tree of the keys' characters is sampled: each
//! node is asked for one page. A node whose keys fit on the page is small; one that has more is divided by the next
//! character of its keys, until there are enough large ones. Ranges made of them are complete and do not overlap,
//! whatever was sampled: what a sample misses only makes them uneven.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};

use super::error::SourceError;
use super::store::Store;

/// Keys asked for to tell a large node from a small one.
const SAMPLE: usize = 1000;
/// Requests at once.
const AT_ONCE: usize = 96;
/// How often nodes are divided.
const ROUNDS: usize = 12;
/// Ranges for each lane that is read at once: their sizes differ, and a lane that ends early takes the next one.
const RANGES_PER_LANE: usize = 4;
/// Weight of a large node, in pages; its true size is not known.
const LARGE: usize = 4 * SAMPLE;

/// The keys that begin with a prefix.
#[derive(Debug, Clone)]
struct Node {
    prefix: String,
    first: String,
    last: String,
    keys: usize,
    is_large: bool,
}

/// The keys, in order, that end one range and begin the next; none where the prefix is small, or `lanes` is 1.
pub(crate) async fn split(store: &Store, bucket: &str, prefix: &str, lanes: usize) -> Result<Vec<String>, SourceError> {
    let tree = Tree { store, bucket };
    let mut alphabet = BTreeSet::new();
    let Some(root) = tree.node(prefix.to_owned(), &mut alphabet).await?.filter(|root| root.is_large && lanes > 1)
    else {
        return Ok(Vec::new());
    };
    let (mut nodes, wanted) = (vec![root], lanes * RANGES_PER_LANE);
    for _ in 0..ROUNDS {
        let large = nodes.iter().filter(|node| node.is_large).count();
        if large >= wanted {
            break;
        }
        let divided = tree.divide(&nodes, nodes.len() >= lanes, &mut alphabet).await?;
        if divided.len() == nodes.len() && divided.iter().zip(&nodes).all(|(new, old)| new.prefix == old.prefix) {
            break;
        }
        nodes = divided;
    }
    Ok(boundaries(&nodes, wanted))
}

struct Tree<'a> {
    store: &'a Store,
    bucket: &'a str,
}

impl Tree<'_> {
    async fn sample(&self, prefix: String) -> Result<Option<(Node, BTreeSet<char>)>, SourceError> {
        let listed = self.store.list(self.bucket, &prefix, None, SAMPLE).await?;
        let (Some(first), Some(last)) = (listed.objects.first(), listed.objects.last()) else { return Ok(None) };
        let tails = listed.objects.iter().filter_map(|object| object.key.get(prefix.len()..));
        let alphabet = tails.flat_map(str::chars).collect();
        let (first, last) = (first.key.clone(), last.key.clone());
        Ok(Some((Node { prefix, first, last, keys: listed.objects.len(), is_large: listed.more }, alphabet)))
    }

    async fn node(&self, prefix: String, alphabet: &mut BTreeSet<char>) -> Result<Option<Node>, SourceError> {
        let sampled = self.sample(prefix).await?;
        Ok(sampled.map(|(node, characters)| {
            alphabet.extend(characters);
            node
        }))
    }

    /// Replaces each large node by those of the next character of its keys. Characters that no sample has shown are
    /// looked for only while there are few nodes.
    async fn divide(
        &self,
        nodes: &[Node],
        by_alphabet: bool,
        alphabet: &mut BTreeSet<char>,
    ) -> Result<Vec<Node>, SourceError> {
        let stems = self.stems(nodes).await?;
        let candidates: BTreeSet<char> =
            if by_alphabet { alphabet.clone() } else { alphabet.iter().copied().chain(' '..='~').collect() };
        let asked: Vec<(usize, String)> = stems
            .iter()
            .enumerate()
            .filter_map(|(index, stem)| Some((index, stem.as_ref()?)))
            .flat_map(|(index, stem)| candidates.iter().map(move |next| (index, format!("{stem}{next}"))))
            .collect();
        let requests = asked
            .into_iter()
            .map(|(index, prefix)| async move { Ok::<_, SourceError>((index, self.sample(prefix).await?)) });
        let mut answers = stream::iter(requests).buffered(AT_ONCE);
        let mut children: Vec<Vec<Node>> = vec![Vec::new(); nodes.len()];
        while let Some((index, sampled)) = answers.try_next().await? {
            if let (Some((node, characters)), Some(of)) = (sampled, children.get_mut(index)) {
                alphabet.extend(characters);
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
        let requests = asked.into_iter().map(|(index, end, prefix, after)| async move {
            let listed = self.store.list(self.bucket, &prefix, Some(&after), 1).await?;
            Ok::<_, SourceError>((index, end, listed.objects.is_empty()))
        });
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
    let weight = |node: &Node| if node.is_large { LARGE } else { node.keys };
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
            Node { prefix, first, last, keys, is_large }
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
