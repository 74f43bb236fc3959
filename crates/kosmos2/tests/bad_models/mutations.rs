//! Seeded changes to files.

use hostile::Random;
use serde_json::{Value, json};

use crate::pickled::Pickled;

/// Truncates, flips, duplicates, removes or replaces bytes.
pub(crate) fn bytes(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    let mut changed = whole.to_vec();
    let at = random.below(whole.len());
    match random.below(5) {
        0 => changed.truncate(at),
        1 => changed[at] ^= 1 << random.below(8),
        2 => drop(changed.splice(at..at, whole[at..].iter().take(64).copied())),
        3 => drop(changed.drain(at..(at + 1 + random.below(64)).min(whole.len()))),
        _ => changed[at] = b"0192{}[]\",:-eE.\\\xff\0"[random.below(18)],
    }
    changed
}

/// Removes or replaces one value of a JSON document.
pub(crate) fn json(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    let mut document: Value = serde_json::from_slice(whole).unwrap();
    let mut paths = Vec::new();
    list_paths(&document, &mut String::new(), &mut paths);
    let path = &paths[random.below(paths.len())];
    let (parent, key) = path.rsplit_once('/').unwrap();
    if random.below(6) == 0
        && let Some(Value::Object(parent)) = document.pointer_mut(parent)
    {
        parent.remove(key);
    } else {
        *document.pointer_mut(path).unwrap() = bad_value(random);
    }
    document.to_string().into_bytes()
}

fn bad_value(random: &mut Random) -> Value {
    let deep = (0..100).fold(json!(0), |inner, _| json!([inner]));
    let all = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(-1),
        json!(3),
        json!(255),
        json!(1_000_000_000u64),
        json!(u32::MAX),
        json!(u64::MAX),
        json!(1u64 << 62),
        json!(0.5),
        json!(1e300),
        json!(-1e-300),
        json!(""),
        json!("gelu"),
        json!("../../etc/passwd"),
        json!("x".repeat(100_000)),
        json!([]),
        json!([u64::MAX, u64::MAX]),
        json!({}),
        deep,
    ];
    all[random.below(all.len())].clone()
}

/// JSON pointers to the values of a document, with at most 60 items of each list.
fn list_paths(value: &Value, path: &mut String, paths: &mut Vec<String>) {
    let mut step = |key: &str, value: &Value| {
        let length = path.len();
        path.push('/');
        path.push_str(&key.replace('~', "~0").replace('/', "~1"));
        paths.push(path.clone());
        list_paths(value, path, paths);
        path.truncate(length);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| step(key, value)),
        Value::Array(list) => list.iter().take(60).enumerate().for_each(|(n, value)| step(&n.to_string(), value)),
        _ => {}
    }
}

/// A safetensors file with a changed header.
pub(crate) fn with_header(whole: &[u8], change: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let header = change(&whole[8..8 + length]);
    [&(header.len() as u64).to_le_bytes()[..], &header, &whole[8 + length..]].concat()
}

/// Changes the length, header or data of a safetensors file.
pub(crate) fn safetensors(random: &mut Random, whole: &[u8]) -> Vec<u8> {
    match random.below(8) {
        0 => bytes(random, whole),
        1 => {
            let length = random.draw() >> random.below(64);
            [&length.to_le_bytes()[..], &whole[8..]].concat()
        }
        2 | 3 => with_header(whole, |header| bytes(random, header)),
        _ => with_header(whole, |header| json(random, header)),
    }
}

/// Changes the archive, the pickle or the data of a PyTorch file.
pub(crate) fn pickled(random: &mut Random, whole: &Pickled) -> Vec<u8> {
    match random.below(8) {
        0 => bytes(random, &whole.bytes),
        1 | 2 => {
            let mut changed = whole.bytes.clone();
            let at = whole.directory.start + random.below(changed.len() - whole.directory.start - 8);
            let number = (random.draw() >> random.below(64)).to_le_bytes();
            let length = 1 << random.below(4);
            changed[at..at + length].copy_from_slice(&number[..length]);
            changed
        }
        // Operations and their arguments in place, so that sizes and the directory stay valid.
        3..6 => {
            let mut changed = whole.bytes.clone();
            let numbers: Vec<usize> = whole.pickle.clone().filter(|at| b"KMJXhjqr".contains(&changed[*at])).collect();
            let at = numbers[random.below(numbers.len())];
            match random.below(3) {
                0 => changed[at] = b"KMJXhjqr)(}]Rt\x85\x86\x87usbQN.c"[random.below(24)],
                1 => changed[at + 1..at + 5].fill([0, 0xff, 0x7f][random.below(3)]),
                _ => changed[at + 1] = random.draw() as u8,
            }
            changed
        }
        _ => whole.with_pickle(&bytes(random, &whole.bytes[whole.pickle.clone()])),
    }
}
