//! Attention over caches, in f32 and in bf16, compared with attention over rows of the same values.

use candle_core::DType;
use kernels::cpu::{Attention, CacheFormat, Context, KeyValueCache, Scratch, attention};

use crate::Case;
use crate::common::{self, bits, each_implementation, tensor};

/// The result of the queries over the cache.
fn run_in_cache(case: &Case, queries: &[f32], cache: &KeyValueCache) -> Vec<f32> {
    let width = case.heads * case.dim;
    let mut out = vec![f32::NAN; case.queries * width];
    let job = Attention {
        queries,
        query_stride: width,
        context: Context::Cache(cache),
        key_count: case.keys,
        causal_offset: case.causal_offset,
        out: &mut out,
    };
    attention(&mut [job], case.heads, case.dim, &mut Scratch::new());
    out
}

fn write(cache: &mut KeyValueCache, positions: std::ops::Range<usize>, keys: &[f32], values: &[f32]) {
    let width = keys.len() / positions.len();
    for (position, (key, value)) in positions.zip(keys.chunks(width).zip(values.chunks(width))) {
        cache.write(position, key, value);
    }
}

const CACHE_FORMATS: [CacheFormat; 2] = [CacheFormat::F32, CacheFormat::Bf16];

/// The values that a cache holds after they were written.
fn stored(values: &[f32], format: CacheFormat) -> Vec<f32> {
    match format {
        CacheFormat::F32 => values.to_vec(),
        CacheFormat::Bf16 => {
            let rounded = tensor(values, &[values.len()]).to_dtype(DType::BF16).unwrap();
            common::values(&rounded.to_dtype(DType::F32).unwrap())
        }
    }
}

#[test]
fn a_cache_gives_the_bits_that_rows_of_what_it_stores_give() {
    for (queries, keys, heads, dim) in
        [(1, 1, 1, 64), (1, 75, 8, 32), (1, 112, 6, 48), (5, 33, 3, 64), (71, 71, 2, 64), (3, 17, 2, 24), (1, 9, 5, 7)]
    {
        let case = Case { queries, keys, heads, dim, causal_offset: Some(keys - queries) };
        let mut data = case.data(keys as u64);
        // Halfway between two neighbours in bf16.
        let tie = |value: &mut f32| *value = f32::from_bits(value.to_bits() & 0xffff_0000 | 0x8000);
        data.1.iter_mut().chain(&mut data.2).step_by(3).for_each(tie);
        for format in CACHE_FORMATS {
            let mut cache = KeyValueCache::new(keys, heads, dim, format);
            // Leftovers of another sequence must not matter.
            let leftovers = vec![1e30; keys * heads * dim];
            write(&mut cache, 0..keys, &leftovers, &leftovers);
            write(&mut cache, 0..keys, &data.1, &data.2);
            let rows = (data.0.clone(), stored(&data.1, format), stored(&data.2, format));
            each_implementation(|implementation| {
                let found = bits(&run_in_cache(&case, &data.0, &cache));
                let same = found == bits(&case.run(&rows));
                assert!(same, "{implementation:?} {format:?} {queries} of {keys}, {heads}x{dim}");
            });
        }
    }
}

#[test]
fn a_query_over_a_cache_has_the_same_bits_alone_and_in_its_prompt() {
    // Four heads and more are computed at once if there is a single query.
    for (heads, dim) in [(8, 64), (6, 32), (2, 40)] {
        let whole = Case { queries: 71, keys: 71, heads, dim, causal_offset: Some(0) };
        let width = heads * dim;
        let data = whole.data(78);
        for format in CACHE_FORMATS {
            let mut cache = KeyValueCache::new(71, heads, dim, format);
            write(&mut cache, 0..71, &data.1, &data.2);
            each_implementation(|implementation| {
                let in_prompt = bits(&run_in_cache(&whole, &data.0, &cache));
                for (start, count) in [(0, 1), (1, 1), (40, 1), (70, 1), (0, 7), (30, 20), (64, 7)] {
                    let rows = start * width..(start + count) * width;
                    let part = Case { queries: count, keys: start + count, causal_offset: Some(start), ..whole };
                    let alone = bits(&run_in_cache(&part, &data.0[rows.clone()], &cache));
                    assert!(alone == in_prompt[rows], "{implementation:?} {format:?} {start}+{count} {heads}x{dim}");
                }
            });
        }
    }
}

#[test]
fn copied_places_are_the_others_and_the_rest_stays() {
    let case = Case { queries: 1, keys: 50, heads: 2, dim: 32, causal_offset: None };
    let (mine, other) = (case.data(1), case.data(2));
    let width = 64;
    for format in CACHE_FORMATS {
        for positions in [0..50, 0..16, 16..48, 5..9, 0..37, 31..50, 7..7] {
            let [mut cache, mut source] = [(); 2].map(|()| KeyValueCache::new(50, 2, 32, format));
            write(&mut source, 0..50, &other.1, &other.2);
            write(&mut cache, 0..50, &mine.1, &mine.2);
            cache.copy_from(&source, positions.clone());
            let mut expected = mine.clone();
            let range = positions.start * width..positions.end * width;
            expected.1[range.clone()].copy_from_slice(&other.1[range.clone()]);
            expected.2[range.clone()].copy_from_slice(&other.2[range]);
            let expected = (expected.0, stored(&expected.1, format), stored(&expected.2, format));
            let found = bits(&run_in_cache(&case, &mine.0, &cache));
            assert_eq!(found, bits(&case.run(&expected)), "{format:?} {positions:?}");
        }
    }
}

#[test]
#[should_panic(expected = "both caches must have the same format")]
fn caches_of_different_formats_are_not_copied() {
    let [mut cache, source] = CACHE_FORMATS.map(|format| KeyValueCache::new(16, 1, 16, format));
    cache.copy_from(&source, 0..16);
}

#[test]
fn a_cache_in_bf16_takes_half_the_bytes() {
    // A token of the published size: 24 layers of 32 heads.
    let bytes = |format| 24 * KeyValueCache::bytes(512, 32, 64, format) / 512;
    assert_eq!(CACHE_FORMATS.map(bytes), [393_216, 196_608]);
    // Whole panels of 16 tokens.
    assert_eq!(KeyValueCache::bytes(17, 1, 8, CacheFormat::Bf16), 2 * 32 * 8 * 2);
}
