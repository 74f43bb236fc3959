//! Divides a prefix into ranges of keys that can be listed in parallel.
//!
//! A store lists keys in order and does not report how many there are. So the tree of the keys' characters is sampled: for
//! each node, the first keys are requested, and the number of its keys is estimated from the part of the key space that
//! these cover. Nodes with many keys are divided by the next character, until none has too large a share. The ranges that
//! are made of the nodes are complete and do not overlap, whatever the samples contain: a wrong estimate only makes them
//! uneven.

use std::collections::BTreeSet;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::error::SourceError;
use super::store::Store;

/// The number of keys requested for a node.
const SAMPLE: usize = 50;
/// Maximum number of parallel requests.
const CONCURRENCY: usize = 192;
/// Maximum number of times that nodes are divided.
const MAX_ROUNDS: usize = 10;
/// The number of nodes above which none is divided further.
const MAX_NODES: usize = 1500;
/// Nodes are divided until none has more than this share of the keys of one parallel lane: one in four.
const NODES_PER_LANE: f64 = 4.0;
/// Nodes with fewer keys are not divided: stores return this many keys for a request, and dividing takes many requests.
const MIN_DIVIDED: f64 = 1000.0;
/// Ranges for each parallel lane. Their sizes differ, and a lane that ends takes the next range.
const RANGES_PER_LANE: usize = 8;
/// Up to this number of nodes, all printable characters are tried as the next one of keys, in addition to those in the
/// samples.
const FEW_NODES: usize = 2;
/// The number of characters of a key that the estimate uses.
const ESTIMATED_CHARACTERS: usize = 12;
/// The smallest part of the key space that is distinguished.
const MIN_PART: f64 = 1e-9;

/// The keys that begin with a prefix.
#[derive(Debug, Clone)]
struct Node {
    prefix: String,
    /// The longest prefix that all keys have in common, if the node is large.
    stem: String,
    /// Whether there are more keys than were sampled.
    is_large: bool,
    /// The characters of the sampled keys after the stem.
    alphabet: BTreeSet<char>,
    /// The estimated number of keys.
    keys: f64,
}

/// The first keys that begin with a prefix.
#[derive(Debug, Clone)]
struct Sample {
    prefix: String,
    keys: Vec<String>,
    is_large: bool,
}

/// The keys that end one range and begin the next, in order. Empty if the prefix is small or `lanes` is 1.
pub(crate) async fn split(store: &Store, bucket: &str, prefix: &str, lanes: usize) -> Result<Vec<String>, SourceError> {
    if lanes <= 1 {
        return Ok(Vec::new());
    }
    let tree = Tree { store, bucket };
    let root: Vec<Sample> = tree.sample(prefix.to_owned()).await?.into_iter().collect();
    let mut nodes = tree.nodes(root).await?;
    for _ in 0..MAX_ROUNDS {
        let share = nodes.iter().map(|node| node.keys).sum::<f64>() / (lanes as f64 * NODES_PER_LANE);
        let share = share.max(MIN_DIVIDED);
        let is_divided: Vec<bool> = nodes.iter().map(|node| node.is_large && node.keys > share).collect();
        if nodes.len() > MAX_NODES || !is_divided.contains(&true) {
            break;
        }
        let before = nodes.len();
        nodes = tree.divide(nodes, &is_divided).await?;
        if nodes.len() == before {
            break;
        }
    }
    Ok(boundaries(&nodes, lanes * RANGES_PER_LANE))
}

struct Tree<'a> {
    store: &'a Store,
    bucket: &'a str,
}

impl Tree<'_> {
    /// Samples the keys with this prefix; `None` if there are none.
    async fn sample(&self, prefix: String) -> Result<Option<Sample>, SourceError> {
        let listed = self.store.list(self.bucket, &prefix, None, SAMPLE).await?;
        let keys: Vec<String> = listed.objects.into_iter().map(|object| object.key).collect();
        Ok(Some(Sample { prefix, keys, is_large: listed.more }).filter(|sample| !sample.keys.is_empty()))
    }

    /// Replaces each node that is to be divided by the nodes of the next character of its keys.
    async fn divide(&self, nodes: Vec<Node>, is_divided: &[bool]) -> Result<Vec<Node>, SourceError> {
        let are_few = nodes.len() <= FEW_NODES;
        // Collected, because a future that contains a borrowing iterator is not `Send`.
        let mut requests = Vec::new();
        for (index, (node, _)) in nodes.iter().zip(is_divided).enumerate().filter(|(_, (_, divided))| **divided) {
            let printable = (' '..='~').filter(|_| are_few);
            let candidates: BTreeSet<char> = node.alphabet.iter().copied().chain(printable).collect();
            for next in candidates {
                let prefix = format!("{}{next}", node.stem);
                requests.push(async move { Ok::<_, SourceError>((index, self.sample(prefix).await?)) }.boxed());
            }
        }
        let mut responses = stream::iter(requests).buffered(CONCURRENCY);
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); nodes.len()];
        while let Some((index, sample)) = responses.try_next().await? {
            if let (Some(sample), Some(of_node)) = (sample, samples.get_mut(index)) {
                of_node.push(sample);
            }
        }
        drop(responses);
        let counts: Vec<usize> = samples.iter().map(Vec::len).collect();
        let mut children = self.nodes(samples.into_iter().flatten().collect()).await?.into_iter();
        let replace = |(node, count): (Node, usize)| match count {
            0 => vec![node],
            _ => children.by_ref().take(count).collect(),
        };
        Ok(nodes.into_iter().zip(counts).flat_map(replace).collect())
    }

    /// The nodes of these samples, in the same order.
    async fn nodes(&self, samples: Vec<Sample>) -> Result<Vec<Node>, SourceError> {
        let stems = self.stems(&samples).await?;
        Ok(samples.into_iter().zip(stems).map(|(sample, stem)| Node::new(sample, stem)).collect())
    }

    /// For each large sample, the longest prefix that all keys of its node have in common; for others, their prefix.
    async fn stems(&self, samples: &[Sample]) -> Result<Vec<String>, SourceError> {
        let mut probes = Vec::new();
        for (index, sample) in samples.iter().enumerate().filter(|(_, sample)| sample.is_large) {
            let (Some(first), Some(last)) = (sample.keys.first(), sample.keys.last()) else { continue };
            let common = first.chars().zip(last.chars()).take_while(|(a, b)| a == b);
            let mut end = 0;
            for (character, _) in common {
                let start = end;
                end += character.len_utf8();
                if end > sample.prefix.len() {
                    // A key after all keys that begin with these characters.
                    let next = char::from_u32(u32::from(character) + 1).unwrap_or(char::MAX);
                    let after = format!("{}{next}", first.get(..start).unwrap_or_default());
                    probes.push((index, end, sample.prefix.clone(), after));
                }
            }
        }
        let requests: Vec<_> = probes
            .into_iter()
            .map(|(index, end, prefix, after)| {
                let request = async move {
                    let listed = self.store.list(self.bucket, &prefix, Some(&after), 1).await?;
                    Ok::<_, SourceError>((index, end, listed.objects.is_empty()))
                };
                request.boxed()
            })
            .collect();
        let mut responses = stream::iter(requests).buffered(CONCURRENCY);
        let mut ends: Vec<usize> = samples.iter().map(|sample| sample.prefix.len()).collect();
        while let Some((index, end, is_common)) = responses.try_next().await? {
            if let Some(known) = ends.get_mut(index).filter(|known| is_common && end > **known) {
                *known = end;
            }
        }
        let stem = |(sample, end): (&Sample, usize)| {
            sample.keys.first().and_then(|first| first.get(..end)).unwrap_or(&sample.prefix).to_owned()
        };
        Ok(samples.iter().zip(ends).map(stem).collect())
    }
}

impl Node {
    /// A node whose keys have this stem in common.
    fn new(sample: Sample, stem: String) -> Self {
        let Sample { prefix, keys, is_large } = sample;
        let tail = |key: &String| key.get(stem.len()..).unwrap_or_default().to_owned();
        let alphabet: BTreeSet<char> = keys.iter().flat_map(|key| tail(key).chars().collect::<Vec<_>>()).collect();
        let position = |key: Option<&String>| key.map_or(0.0, |key| position(&tail(key), &alphabet));
        let (sampled, covered) = (keys.len() as f64, position(keys.last()) - position(keys.first()));
        let keys = match is_large {
            true => (sampled / covered.max(MIN_PART)).max(2.0 * sampled),
            false => sampled,
        };
        Self { prefix, stem, is_large, alphabet, keys }
    }
}

/// The position of a key in the space of keys with these characters, from 0 to 1.
fn position(tail: &str, alphabet: &BTreeSet<char>) -> f64 {
    let (mut position, mut width) = (0.0, 1.0);
    for character in tail.chars().take(ESTIMATED_CHARACTERS) {
        width /= alphabet.len().max(1) as f64;
        position += alphabet.range(..character).count() as f64 * width;
    }
    position
}

/// Joins neighbouring nodes to about `wanted` ranges with similar numbers of keys.
fn boundaries(nodes: &[Node], wanted: usize) -> Vec<String> {
    let share = nodes.iter().map(|node| node.keys).sum::<f64>() / wanted.max(1) as f64;
    let (mut boundaries, mut joined) = (Vec::new(), 0.0);
    for node in nodes {
        if joined >= share || (joined > 0.0 && joined + node.keys > 1.5 * share) {
            boundaries.push(node.prefix.clone());
            joined = 0.0;
        }
        joined += node.keys;
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
        let node = |prefix: &str, keys| {
            let (prefix, stem) = (prefix.to_owned(), String::new());
            Node { prefix, stem, is_large: false, alphabet: BTreeSet::new(), keys }
        };
        let nodes = [node("a", 10.0), node("b", 4000.0), node("c", 5.0), node("d", 4000.0), node("e", 4000.0)];
        assert_eq!(boundaries(&nodes, 3), ["c", "e"]);
        assert_eq!(boundaries(&nodes, 1), Vec::<String>::new());
        assert_eq!(boundaries(&[], 4), Vec::<String>::new());
    }

    #[test]
    fn the_number_of_keys_is_estimated_from_the_first_ones() {
        let estimated = |keys: Vec<String>, stem: &str, is_large| {
            Node::new(Sample { prefix: "k/".to_owned(), keys, is_large }, stem.to_owned()).keys
        };
        let numbers = || (0..50).map(|i| format!("k/{i:06}")).collect();
        // All numbers with six digits, and with four.
        assert!((900_000.0..1_100_000.0).contains(&estimated(numbers(), "k/", true)));
        assert!((9_000.0..11_000.0).contains(&estimated(numbers(), "k/00", true)));
        assert!((49.9..50.1).contains(&estimated(numbers(), "k/", false)));
        let spread = (0..16).map(|i| format!("k/{i:x}fff")).collect();
        assert!((30.0..40.0).contains(&estimated(spread, "k/", true)));
    }
}
