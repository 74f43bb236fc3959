//! Attention and the key/value cache.

use candle_core::{D, Device as Host, Tensor};
use kernels::cuda::index_tables::{Copies, Copy, NewRow, RowLimits, Rows, Tile, TileLimits, Tiles};
use kernels::cuda::{Attention, Contexts, CudaError, Device, Format, KeyValueCache, KvFormat, NewTokens, Norm, Splits};

use super::{EPS, Report, distance, layer_norm, tensor, unwritten};

/// Numbers of heads, and head sizes.
const HEADS: [(usize, usize); 3] = [(32, 64), (8, 32), (4, 16)];

/// Checks the kernels of a format.
pub(super) fn format<T: Format>(device: &Device, report: &mut Report, bound: f64) -> Result<(), CudaError> {
    for (heads, head_dim) in HEADS {
        cache::<T, T>(device, report, heads, head_dim, bound)?;
        for on_tensor_cores in [false, true] {
            if on_tensor_cores && !T::ON_TENSOR_CORES {
                continue;
            }
            tiles::<T>(
                device,
                report,
                heads,
                head_dim,
                140,
                &[(71, 1), (5, 67), (130, 1)],
                true,
                on_tensor_cores,
                bound,
            )?;
            tiles::<T>(device, report, heads, head_dim, 257, &[(257, 257), (64, 257)], false, on_tensor_cores, bound)?;
        }
    }
    Ok(())
}

fn cache<T: Format, S: KvFormat<T>>(
    device: &Device,
    report: &mut Report,
    heads: usize,
    head_dim: usize,
    bound: f64,
) -> Result<(), CudaError> {
    newest::<T, S>(device, report, heads, head_dim, &[0, 1, 5, 17, 63, 130, 199], 1, true, bound)?;
    newest::<T, S>(device, report, heads, head_dim, &[3, 64, 150], 5, true, bound)?;
    newest::<T, S>(device, report, heads, head_dim, &[2, 90], 8, false, bound)
}

/// Checks the kernels for keys and values in 8 bits.
pub(crate) fn int8_cache<T: Format>(device: &Device, report: &mut Report, bound: f64) -> Result<(), CudaError>
where
    i8: KvFormat<T>,
{
    for (heads, head_dim) in HEADS {
        cache::<T, i8>(device, report, heads, head_dim, bound)?;
        let (length, rows, width) = (150, 140, heads * head_dim);
        let limits = RowLimits { tokens: 1, positions: 1, slots: 2, columns: length };
        let cache = KeyValueCache::<i8>::new::<T>(device, 2, heads, length, head_dim)?;
        let table = Rows::new(device, rows, limits)?;
        let entry = |column: u32| NewRow { token: 0, position: 0, slot: 1, column };
        table.set(device, &(0..rows as u32).map(entry).collect::<Vec<_>>())?;
        let qkv = report.values::<T>(rows * 3 * width, 1.0, 0.0);
        let (new, bias) = (device.buffer(&qkv)?, device.zeros::<f32>(3 * width)?);
        device.append(&table, rows, NewTokens { qkv: &new, bias: &bias }, &cache)?;
        let limits = TileLimits { queries: rows, contexts: 2, columns: length, out: rows };
        let list = Tile::cover(0, rows as u32, 1, 1, true, 0);
        let mut tiles = Tiles::new(device, list.len(), limits)?;
        tiles.set(device, &list)?;
        let out = unwritten::<T>(device, rows * width)?;
        device.attend(&Attention {
            tiles: &tiles,
            queries: &new,
            query_stride: 3 * width,
            query_bias: None,
            value_bias: None,
            contexts: &cache.contexts(),
            heads,
            head_dim,
            out: &out,
        })?;
        let all = tensor(&qkv, &[rows, 3, heads, head_dim]);
        let head = |head: usize| {
            let part =
                |n: usize| all.narrow(1, n, 1).unwrap().narrow(2, head, 1).unwrap().reshape(((), head_dim)).unwrap();
            attention(&part(0), &part(1), &part(2), 1, 1)
        };
        let expected = Tensor::stack(&(0..heads).map(head).collect::<Vec<_>>(), 1).unwrap();
        let expected = expected.reshape((rows, width)).unwrap();
        let shape = [rows, heads, head_dim];
        report.line("attend_tiles_int8, causal", T::NAME, &shape, distance(&device.values(&out)?, &expected), bound);
    }
    Ok(())
}

/// softmax(q kᵀ / √d) v for q [rows, d] and k, v [columns, d], of which row i sees `first + i · step`.
fn attention(q: &Tensor, k: &Tensor, v: &Tensor, first: usize, step: usize) -> Tensor {
    let (rows, columns) = (q.dim(0).unwrap(), k.dim(0).unwrap());
    let scores = (q.matmul(&k.t().unwrap()).unwrap() / (q.dim(1).unwrap() as f64).sqrt()).unwrap();
    let cell = |i: usize, j: usize| if j < first + i * step { 0.0 } else { -1e30f64 };
    let mask: Vec<f64> = (0..rows).flat_map(|i| (0..columns).map(move |j| cell(i, j))).collect();
    let scores = (scores + Tensor::from_vec(mask, (rows, columns), &Host::Cpu).unwrap()).unwrap();
    candle_nn::ops::softmax(&scores, D::Minus1).unwrap().matmul(v).unwrap()
}

#[allow(clippy::too_many_arguments, reason = "a case of a table")]
fn newest<T: Format, S: KvFormat<T>>(
    device: &Device,
    report: &mut Report,
    heads: usize,
    head_dim: usize,
    columns: &[u32],
    splits: usize,
    append: bool,
    bound: f64,
) -> Result<(), CudaError> {
    let (length, rows, width) = (200, columns.len(), heads * head_dim);
    let limits = RowLimits { tokens: 1, positions: 1, slots: rows + 1, columns: length };
    let cache = KeyValueCache::<S>::new::<T>(device, rows + 1, heads, length, head_dim)?;
    let bias = report.values::<f32>(3 * width, 0.3, 0.0);
    let biases = device.buffer(&bias)?;
    let entry = |slot: usize, column: usize| NewRow { token: 0, position: 0, slot: slot as u32, column: column as u32 };
    // Older tokens are written by the kernel for prompts.
    let mut older = Vec::new();
    for (row, &count) in columns.iter().enumerate() {
        older.extend((0..count as usize).map(|column| entry(row + 1, column)));
    }
    let history = report.values::<T>(older.len() * 3 * width, 1.0, 0.0);
    let table = Rows::new(device, older.len().max(rows), limits)?;
    table.set(device, &older)?;
    let older_tokens = NewTokens { qkv: &device.buffer(&history)?, bias: &biases };
    device.append(&table, older.len(), older_tokens, &cache)?;

    let qkv = report.values::<T>(rows * 3 * width, 1.0, 0.0);
    let newest: Vec<_> = columns.iter().enumerate().map(|(row, &column)| entry(row + 1, column as usize)).collect();
    table.set(device, &newest)?;
    let new = device.buffer(&qkv)?;
    let tokens = NewTokens { qkv: &new, bias: &biases };
    if !append {
        device.append(&table, rows, tokens, &cache)?;
    }
    let parts = Splits::new(device, rows * splits, heads, head_dim)?.of(splits);
    device.attend_newest(&table, rows, tokens, &cache, append, &parts)?;
    let (weight, norm_bias) = (report.values::<f32>(width, 0.3, 1.0), report.values::<f32>(width, 0.2, 0.0));
    let norm = Norm::new(device.buffer(&weight)?, device.buffer(&norm_bias)?, EPS as f32)?;
    let out = unwritten::<T>(device, rows * width)?;
    device.merge_norm(&parts, rows, heads, &norm, &out)?;

    let rounded = |values: &[T]| -> Vec<T> {
        let biased = values.iter().zip(bias.iter().cycle()).map(|(value, bias)| value.to_f32() + bias);
        biased.map(<T as Format>::from_f32).collect()
    };
    let (history, qkv) = (rounded(&history), rounded(&qkv));
    let (mut joined, mut done) = (Vec::new(), 0);
    for (row, &count) in columns.iter().enumerate() {
        let own = history[done * 3 * width..][..count as usize * 3 * width].iter();
        let all: Vec<T> = own.chain(&qkv[row * 3 * width..][..3 * width]).copied().collect();
        done += count as usize;
        let all = tensor(&all, &[count as usize + 1, 3, heads, head_dim]);
        for head in 0..heads {
            let part =
                |n: usize| all.narrow(1, n, 1).unwrap().narrow(2, head, 1).unwrap().reshape(((), head_dim)).unwrap();
            let q = part(0).narrow(0, count as usize, 1).unwrap();
            joined.push(attention(&q, &part(1), &part(2), count as usize + 1, 0));
        }
    }
    let joined = Tensor::cat(&joined, 0).unwrap().reshape((rows, width)).unwrap();
    let expected = layer_norm(&joined, &tensor(&weight, &[width]), &tensor(&norm_bias, &[width]));
    let name = format!("attend_newest{}{}", if append { ", append" } else { "" }, S::SUFFIX);
    report.line(&name, T::NAME, &[rows, heads, head_dim, splits], distance(&device.values(&out)?, &expected), bound);

    // After copying a slot, attention over the copy gives the same result.
    let mut copies = Copies::new(device, 1, rows + 1, length)?;
    let last = rows - 1;
    copies.set(device, &[Copy { from: last as u32 + 1, to: 0, first: 0, count: columns[last] + 1 }])?;
    device.copy_columns::<T, S>(&copies, &cache)?;
    table.set(device, &[entry(0, columns[last] as usize)])?;
    let own = new.part(last * 3 * width..rows * 3 * width);
    let again = unwritten::<T>(device, width)?;
    device.attend_newest(&table, 1, NewTokens { qkv: &own, bias: &biases }, &cache, false, &parts)?;
    device.merge_norm(&parts, 1, heads, &norm, &again)?;
    let expected = expected.narrow(0, last, 1).unwrap();
    report.line(
        &format!("copy_columns{}", S::SUFFIX),
        T::NAME,
        &[heads, head_dim],
        distance(&device.values(&again)?, &expected),
        bound,
    );
    Ok(())
}

#[allow(clippy::too_many_arguments, reason = "a case of a table")]
fn tiles<T: Format>(
    device: &Device,
    report: &mut Report,
    heads: usize,
    head_dim: usize,
    length: usize,
    pieces: &[(u32, u32)],
    causal: bool,
    on_tensor_cores: bool,
    bound: f64,
) -> Result<(), CudaError> {
    let (width, contexts) = (heads * head_dim, pieces.len());
    let total: usize = pieces.iter().map(|&(rows, _)| rows as usize).sum();
    let qkv = report.values::<T>(contexts * length * 3 * width, 1.0, 0.0);
    let queries = report.values::<T>(total * width, 1.0, 0.0);
    let value_bias = report.values::<f32>(width, 0.3, 0.0);
    let (mut list, mut first) = (Vec::new(), 0);
    for (context, &(rows, visible)) in (0..).zip(pieces) {
        list.extend(Tile::cover(first, rows, context, visible, causal, first));
        first += rows;
    }
    let limits = TileLimits { queries: total, contexts, columns: length, out: total };
    let mut table = Tiles::new(device, list.len(), limits)?;
    table.set(device, &list)?;
    let buffer = device.buffer(&qkv)?;
    let interleaved = Contexts {
        keys: &buffer.part(width..buffer.len()),
        values: &buffer.part(2 * width..buffer.len()),
        scales: None,
        context_stride: length * 3 * width,
        head_stride: head_dim,
        column_stride: 3 * width,
        contexts,
        columns: length,
    };
    let (own, bias) = (device.buffer(&queries)?, device.buffer(&value_bias)?);
    let out = unwritten::<T>(device, total * width)?;
    let arguments = Attention {
        tiles: &table,
        queries: &own,
        query_stride: width,
        query_bias: None,
        value_bias: Some(&bias),
        contexts: &interleaved,
        heads,
        head_dim,
        out: &out,
    };
    device.attend_by(on_tensor_cores, &arguments)?;

    let all = tensor(&qkv, &[contexts, length, 3, heads, head_dim]);
    let (queries, bias) = (tensor(&queries, &[total, heads, head_dim]), tensor(&value_bias, &[heads, head_dim]));
    let mut expected = Vec::new();
    for head in 0..heads {
        let mut column = Vec::new();
        let mut start = 0;
        for (context, &(rows, visible)) in pieces.iter().enumerate() {
            let own = all.get(context).unwrap();
            let part = |n: usize| {
                own.narrow(1, n, 1).unwrap().narrow(2, head, 1).unwrap().reshape((length, head_dim)).unwrap()
            };
            let q = queries.narrow(0, start, rows as usize).unwrap().narrow(1, head, 1).unwrap().squeeze(1).unwrap();
            let v = part(2).broadcast_add(&bias.get(head).unwrap()).unwrap();
            let q = q.contiguous().unwrap();
            column.push(attention(&q, &part(1), &v, visible as usize, usize::from(causal)));
            start += rows as usize;
        }
        expected.push(Tensor::cat(&column, 0).unwrap());
    }
    let expected = Tensor::stack(&expected, 1).unwrap().reshape((total, width)).unwrap();
    let name = match (on_tensor_cores, causal) {
        (true, true) => "attend_tiles, causal",
        (true, false) => "attend_tiles",
        (false, true) => "attend_rows, causal",
        (false, false) => "attend_rows",
    };
    report.line(name, T::NAME, &[total, heads, head_dim], distance(&device.values(&out)?, &expected), bound);
    Ok(())
}
