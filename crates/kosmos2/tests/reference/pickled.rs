//! `pytorch_model.bin` as torch writes it. The file is made by `make_pickle_fixture.py`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common;

use candle_core::{DType, Device};
use common::fixtures;
use kosmos2::checkpoint::Checkpoint;

fn open() -> Checkpoint {
    Checkpoint::open(&fixtures().join("pickled"), DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn every_kind_of_tensor_has_the_values_that_torch_gave_it() {
    let checkpoint = open();
    let values = |name: &str, shape: &[usize]| {
        checkpoint.root().get(shape, name).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let counted = |count: usize| (0..count).map(|i| i as f32 / 8.0).collect::<Vec<_>>();
    for (name, shape) in [
        ("plain", &[3, 4][..]),
        ("halves", &[2, 5]),
        ("brain", &[6]),
        ("empty", &[0, 3]),
        ("tied.head", &[5, 4]),
        ("transposed", &[4, 3]),
        ("every_second", &[5]),
        ("parameter", &[2]),
    ] {
        assert_eq!(values(name, shape), counted(shape.iter().product()), "{name}");
    }
    assert_eq!(values("tied.rows_2_to_4", &[2, 4]), counted(20)[8..16]);
    assert_eq!(values("expanded_ones", &[2, 3]), [1.0; 6]);
    assert_eq!(values("scalar_7", &[]), [7.0]);
    assert_eq!(checkpoint.unused(), [] as [&str; 0], "all others are known to be unused, or not tensors");
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let checkpoint = open();
    let error = |name: &str, shape: &[usize]| checkpoint.root().get(shape, name).unwrap_err().to_string();
    let missing = error("epoch", &[1]);
    assert!(missing.contains("pytorch_model.bin: tensor epoch of shape [1]") && missing.contains("is missing"));
    assert!(error("plain", &[4, 3]).contains("has shape [3, 4], but config.json requires [4, 3]"));
    assert!(
        error("embeddings.position_ids", &[7]).contains("is stored as LongStorage, but f32, f16 or bf16 is expected")
    );
}
