//! Invalid PyTorch files with the expected error.

use super::pickled::{Tensor, archive, dict, entry, number, text, zip};
use super::*;

/// A dictionary of these tensors.
fn of(tensors: &[(&str, Tensor)]) -> Vec<u8> {
    let entries: Vec<u8> = tensors.iter().flat_map(|(name, tensor)| entry(name, tensor)).collect();
    [dict(), entries, b"u.".to_vec()].concat()
}

fn check(model: &SmallModel, rows: Vec<(&str, Vec<u8>, &str)>) {
    let file = "pytorch_model.bin";
    let mut wrong = Vec::new();
    for (what, bytes, part) in rows {
        let (fault, found) = model.with(file, &bytes, |dir| (fault(dir, &[file]), use_model(dir)));
        match (fault, found) {
            (None, Err(sentence)) if sentence.contains(part) && sentence.len() < 2000 => {}
            (fault, found) => wrong.push(format!("{what}: {fault:?} {found:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn archives_that_are_none_or_lie_are_refused() {
    let model = SmallModel::new();
    let whole = &model.pickled.bytes;
    let directory = &model.pickled.directory;
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let end = whole.len() - 22;
    let named = |names: &[&str]| zip(names.iter().map(|name| ((*name).to_owned(), &b"}."[..]))).0;
    let many: Vec<String> = (0..40_000).map(|number| format!("an/entry/with/quite/a/long/name/{number}")).collect();
    let many = zip(many.into_iter().map(|name| (name, &b""[..]))).0;
    let large = vec![b'N'; (2 << 20) + 1];
    let wide = |size: u64, start: u64| {
        let mut record = b"PK\x06\x06".to_vec();
        record.extend([0; 36]);
        record.extend(size.to_le_bytes());
        record.extend(start.to_le_bytes());
        let locator = [b"PK\x06\x07\0\0\0\0", &(end as u64).to_le_bytes()[..], &[0; 4]].concat();
        [&whole[..end], &record, &locator, &whole[end..]].concat()
    };
    check(
        &model,
        vec![
            ("empty", Vec::new(), "no zip directory at its end"),
            ("cut", whole[..whole.len() / 2].to_vec(), "it may be cut short"),
            ("the form before archives", [b"\x80\x02\x8a\x0a", &[b'l'; 64][..]].concat(), "before torch 1.6"),
            ("without its first half", whole[whole.len() / 2..].to_vec(), "is not a readable PyTorch file"),
            ("a directory beyond the end", with(end + 16, &u32::MAX.to_le_bytes()), "its directory is outside"),
            ("a directory of 4 GiB", with(end + 12, &[0xff; 4]), "its directory is outside"),
            ("a wide directory beyond all", wide(u64::MAX, u64::MAX), "its directory is outside"),
            ("a wide directory of exabytes", wide(1 << 60, 0), "its directory is outside"),
            ("a directory of other things", with(end + 16, &[0; 4]), "its directory is damaged"),
            ("an entry beyond the end", with(directory.start + 42, &[0xf0; 4]), "is not where its directory says"),
            ("an entry of 4 GB", with(directory.start + 20, &[0xf0; 8]), "is not where its directory says"),
            ("a wide entry without its number", with(directory.start + 20, &[0xff; 8]), "its directory is damaged"),
            ("a compressed entry", with(directory.start + 10, &[8]), "is compressed or encrypted"),
            ("an entry that unpacks to more", with(directory.start + 24, &[0xf0; 4]), "is compressed or encrypted"),
            ("an encrypted entry", with(directory.start + 8, &[1]), "is compressed or encrypted"),
            ("no entries", named(&[]), "not have exactly one entry data.pkl"),
            ("no pickle", named(&["a/version"]), "not have exactly one entry data.pkl"),
            ("two pickles", named(&["a/data.pkl", "b/data.pkl"]), "not have exactly one entry data.pkl"),
            ("one name twice", named(&["a/data.pkl", "a/data.pkl"]), "it names a/data.pkl twice"),
            (
                "big-endian",
                zip([("data.pkl", &b"}."[..]), ("byteorder", b"big")].map(|(n, b)| (n.to_owned(), b)).into_iter()).0,
                "not little-endian",
            ),
            ("a directory of megabytes", many, "its directory has"),
            ("a pickle of megabytes", archive(&large, &[]).bytes, "more than any checkpoint needs"),
        ],
    );
}

#[test]
fn pickles_that_cost_much_or_say_nothing_are_refused() {
    let model = SmallModel::new();
    let of_pickle = |pickle: &[u8]| archive(pickle, &[]).bytes;
    let nested = [&b")"[..], &vec![0x85; 2_000_000], b"."].concat();
    let marks = [&vec![b'('; 2_000_000][..], b"."].concat();
    let doubled = [&b"}q\0"[..], &b"h\0h\0\x86q\0".repeat(200_000), b"."].concat();
    let within_itself = [&b"}q\0X\x01\0\0\0ah\0s"[..], &b"h\0h\0h\0s".repeat(100_000), b"."].concat();
    let parameters = [
        &b"ctorch._tensor\n_rebuild_from_type_v2\nq\x01"[..],
        b"h\x01)q\x02",
        &b"(h\x01Nh\x02tq\x02h\x01h\x02R".repeat(100_000),
        b".",
    ]
    .concat();
    let program = [&b"cos\nsystem\n"[..], &text("exit 1"), b"\x85R."].concat();
    let list = [&b"]"[..], &b"Na".repeat(1000), b"."].concat();
    check(
        &model,
        vec![
            ("nothing", of_pickle(b""), "before byte 0: it ends too early"),
            ("no end", of_pickle(b"\x80\x02}"), "it ends too early"),
            ("a text of 4 GiB", of_pickle(b"X\xff\xff\xff\xffabc"), "before byte 5: it ends too early"),
            ("a name without end", of_pickle(b"ctorch"), "it ends too early"),
            ("a number of 255 bytes", of_pickle(&[&b"\x8a\xff"[..], &[0xff; 255], b"."].concat()), "no dictionary"),
            ("a text that is none", of_pickle(b"X\x01\0\0\0\xff."), "a text is not UTF-8"),
            ("two million tuples in each other", of_pickle(&nested), "no dictionary of tensors"),
            ("two million marks", of_pickle(&marks), "an operation lacks a value"),
            ("2^200000 values", of_pickle(&doubled), "no dictionary of tensors"),
            ("a dictionary in itself", of_pickle(&within_itself), "is missing; the file is not a complete"),
            ("calls of calls", of_pickle(&parameters), "no dictionary of tensors"),
            ("a program", of_pickle(&program), "no dictionary of tensors"),
            ("a list", of_pickle(&list), "no dictionary of tensors"),
            ("a number", of_pickle(&[number(1 << 40), b".".to_vec()].concat()), "no dictionary of tensors"),
            ("an unknown operation", of_pickle(b"\x95."), "is not one that torch writes"),
            ("values from nowhere", of_pickle(b"\x87."), "an operation lacks a value"),
            ("a mark from nowhere", of_pickle(b"t."), "an operation lacks a mark"),
            ("a memory from nowhere", of_pickle(b"h\x07."), "a memoized value does not exist"),
            ("half an entry", of_pickle(b"}(Nu."), "a key has no value"),
            ("entries for nothing", of_pickle(b"N(NNu."), "there is no dictionary for entries"),
            ("entries for what lies below", of_pickle(b"}((NNu."), "there is no dictionary for entries"),
            ("a storage without a name", of_pickle(b")Q."), "a storage is not described as torch describes them"),
            ("a tensor of nothing", of_pickle(b"ctorch._utils\n_rebuild_tensor_v2\n)R."), "not made of a storage"),
            ("a call of nothing", of_pickle(b"ctorch._utils\n_rebuild_tensor_v2\nNR."), "a call has no arguments"),
            ("no tensors", of_pickle(&of(&[])), "is missing; the file is not a complete KOSMOS-2 checkpoint"),
        ],
    );
}

#[test]
fn tensors_that_are_not_in_their_storages_are_refused() {
    let model = SmallModel::new();
    let name = "text_model.model.layer_norm.bias";
    let right = Tensor { class: "FloatStorage", key: "0", offset: 0, shape: vec![64], strides: vec![1] };
    let file = |tensor: Tensor| archive(&of(&[(name, tensor)]), &[("0".into(), vec![0; 256])]).bytes;
    let shape = |shape: Vec<i64>, strides: Vec<i64>| file(Tensor { shape, strides, ..right.clone() });
    let twice = of(&[(name, right.clone()), (name, right.clone())]);
    let all = |tensor: Tensor| {
        let mut pickle = dict();
        let safetensors = safetensors::SafeTensors::deserialize(model.file("model.safetensors")).unwrap();
        for (other, view) in safetensors.tensors() {
            let shape: Vec<i64> = view.shape().iter().map(|size| *size as i64).collect();
            // All elements are one: strides of 0 are allowed.
            let any = Tensor { strides: vec![0; shape.len()], shape, ..right.clone() };
            pickle.extend(entry(&other, if other == name { &tensor } else { &any }));
        }
        pickle.extend(b"u.");
        archive(&pickle, &[("0".into(), vec![0; 256])]).bytes
    };
    let not_a_tensor = [dict(), text(name), b"Nu.".to_vec()].concat();
    check(
        &model,
        vec![
            ("a longer one", shape(vec![65], vec![1]), "is larger than its storage of 256 bytes"),
            ("one behind", file(Tensor { offset: 1, ..right.clone() }), "is larger than its storage of 256 bytes"),
            ("one far behind", file(Tensor { offset: i64::MAX, ..right.clone() }), "is larger than its storage"),
            ("one before", file(Tensor { offset: -1, ..right.clone() }), "a tensor begins before its storage"),
            ("wide steps", shape(vec![64], vec![2]), "is larger than its storage"),
            ("steps that overflow", shape(vec![3], vec![i64::MAX]), "is larger than its storage"),
            ("a shape that overflows", shape(vec![1 << 40, 1 << 40], vec![1 << 40, 1]), "is larger than its storage"),
            ("a side below zero", shape(vec![-64], vec![1]), "is not a number of at least 0"),
            ("steps backwards", shape(vec![64], vec![-1]), "is not a number of at least 0"),
            ("no strides", shape(vec![64], vec![]), "not have as many strides as dimensions"),
            ("a thousand dimensions", shape(vec![1; 1000], vec![1; 1000]), "more dimensions than any weight"),
            ("no storage", file(Tensor { key: "1", ..right.clone() }), "its storage is missing"),
            ("a storage elsewhere", file(Tensor { key: "../data.pkl", ..right.clone() }), "its storage is missing"),
            (
                "the same twice",
                archive(&twice, &[("0".into(), vec![0; 256])]).bytes,
                "it names text_model.model.layer_norm.bias twice",
            ),
            (
                "an exabyte of one number",
                all(Tensor { shape: vec![1 << 58], strides: vec![0], ..right.clone() }),
                "config.json requires [64]",
            ),
            (
                "another form",
                all(Tensor { shape: vec![64, 1], strides: vec![1, 1], ..right.clone() }),
                "has shape [64, 1]",
            ),
            (
                "whole numbers",
                all(Tensor { class: "LongStorage", ..right.clone() }),
                "is stored as LongStorage, but f32",
            ),
            ("no tensor", archive(&not_a_tensor, &[]).bytes, "is missing; the file is not a complete"),
        ],
    );
}
