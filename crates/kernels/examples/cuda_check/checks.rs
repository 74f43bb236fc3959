//! Results against candle's.

use candle_core::{D, DType, Device as Host, Tensor};
use kernels::cuda::tables::{Copies, Copy, NewRow, RowLimits, Rows, Tile, TileLimits, Tiles, Want, Wants};
use kernels::cuda::{
    Attention, Buffer, Chosen, Contexts, CudaError, Device, Format, Kept, KeyValueCache, Matrix, NewTokens, Norm,
    Residual, Splits, Way,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const EPS: f64 = 1e-5;

/// What was checked.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) checks: usize,
    pub(crate) wrong: usize,
    draws: u64,
}

impl Report {
    fn line(&mut self, kernel: &str, format: &str, shape: &[usize], error: f64, bound: f64) {
        // Not `error > bound`: what is no number is wrong.
        let right = error <= bound;
        self.checks += 1;
        self.wrong += usize::from(!right);
        let verdict = if right { "right" } else { "WRONG" };
        println!("{kernel:24} {format:5} {:24} {error:9.2e}  {verdict}", format!("{shape:?}"));
    }

    /// About normal values, others at each call.
    pub(crate) fn values<T: Format>(&mut self, count: usize, reach: f32, mean: f32) -> Vec<T> {
        self.draws += 1;
        let mut random = ChaCha8Rng::seed_from_u64(self.draws);
        let mut one = || (0..4).map(|_| random.random_range(-1.0..1.0f32)).sum::<f32>() * 0.87 * reach + mean;
        (0..count).map(|_| <T as Format>::from_f32(one())).collect()
    }
}

fn tensor<T: Format>(values: &[T], shape: &[usize]) -> Tensor {
    let wide: Vec<f64> = values.iter().map(|value| f64::from(value.to_f32())).collect();
    Tensor::from_vec(wide, shape, &Host::Cpu).unwrap()
}

/// ‖found − expected‖ / ‖expected‖.
fn distance<T: Format>(found: &[T], expected: &Tensor) -> f64 {
    let found = tensor(found, expected.dims());
    let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
    norm(&(found - expected).unwrap()) / norm(expected)
}

fn unwritten<T: Format>(device: &Device, count: usize) -> Result<Buffer<T>, CudaError> {
    device.buffer(&vec![<T as Format>::from_f32(f32::NAN); count])
}

fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1).unwrap()).unwrap();
    let variance = centred.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
    let scaled = centred.broadcast_div(&(variance + EPS).unwrap().sqrt().unwrap()).unwrap();
    scaled.broadcast_mul(weight).unwrap().broadcast_add(bias).unwrap()
}

/// All kernels of a format; `bound` is what its results may be off by.
pub(crate) fn format<T: Format>(device: &Device, report: &mut Report, bound: f64) -> Result<(), CudaError> {
    for (rows, width) in [(1, 64), (3, 192), (5, 896), (4, 2048), (2, 8192)] {
        row_kernels::<T>(device, report, rows, width, bound)?;
    }
    for (rows, outputs, inner) in [(1, 37, 256), (2, 768, 192), (4, 1030, 896), (3, 64, 2048), (40, 130, 592)] {
        products::<T, T>(device, report, rows, outputs, inner, bound)?;
        if T::NAME != "f32" {
            products::<T, f32>(device, report, rows, outputs, inner, 2e-6)?;
        }
    }
    for (heads, head_dim) in [(32, 64), (8, 32), (4, 16)] {
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

fn cache<T: Format, S: Kept<T>>(
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

/// The kernels for keys and values in 8 bits.
pub(crate) fn small_cache<T: Format>(device: &Device, report: &mut Report, bound: f64) -> Result<(), CudaError>
where
    i8: Kept<T>,
{
    for (heads, head_dim) in [(32, 64), (8, 32), (4, 16)] {
        cache::<T, i8>(device, report, heads, head_dim, bound)?;
        let (length, rows, width) = (150, 140, heads * head_dim);
        let limits = RowLimits { tokens: 1, positions: 1, slots: 2, columns: length };
        let kept = KeyValueCache::<i8>::new::<T>(device, 2, heads, length, head_dim)?;
        let table = Rows::new(device, rows, limits)?;
        let entry = |column: u32| NewRow { token: 0, position: 0, slot: 1, column };
        table.set(device, &(0..rows as u32).map(entry).collect::<Vec<_>>())?;
        let qkv = report.values::<T>(rows * 3 * width, 1.0, 0.0);
        let (new, bias) = (device.buffer(&qkv)?, device.zeros::<f32>(3 * width)?);
        device.append(&table, rows, NewTokens { qkv: &new, bias: &bias }, &kept)?;
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
            contexts: &kept.contexts(),
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

fn row_kernels<T: Format>(
    device: &Device,
    report: &mut Report,
    rows: usize,
    width: usize,
    bound: f64,
) -> Result<(), CudaError> {
    let shape = [rows, width];
    let (weight, bias) = (report.values::<f32>(width, 0.3, 1.0), report.values::<f32>(width, 0.2, 0.0));
    let own_bias = report.values::<f32>(width, 0.1, 0.0);
    let (x, y) = (report.values::<f32>(rows * width, 1.0, 3.0), report.values::<T>(rows * width, 1.0, 0.0));
    let (w, b, own) = (tensor(&weight, &[width]), tensor(&bias, &[width]), tensor(&own_bias, &[width]));
    let norm = Norm::new(device.buffer(&weight)?, device.buffer(&bias)?, EPS as f32)?;
    let own_bias = device.buffer(&own_bias)?;
    let (stream, added, out) = (device.buffer(&x)?, device.buffer(&y)?, unwritten::<T>(device, rows * width)?);
    device.residual_norm(&Residual {
        x: &stream,
        added: Some((&added, &own_bias)),
        picks: None,
        rows,
        norm: &norm,
        to_unit_length: false,
        out: &out,
    })?;
    let sum = (tensor(&x, &shape) + tensor(&y, &shape)).unwrap().broadcast_add(&own).unwrap();
    let expected = layer_norm(&sum, &w, &b);
    report.line("residual_norm", T::NAME, &shape, distance(&device.values(&out)?, &expected), bound);
    report.line("  its sum", T::NAME, &shape, distance(&device.values(&stream)?, &sum), 1e-6);

    let values = report.values::<T>(rows * width, 2.0, 0.0);
    let plain = tensor(&values, &shape);
    let buffer = device.buffer(&values)?;
    device.norm_rows(&buffer, rows, &norm)?;
    let expected = layer_norm(&plain, &w, &b);
    report.line("norm_rows", T::NAME, &shape, distance(&device.values(&buffer)?, &expected), bound);

    let biased = plain.broadcast_add(&own).unwrap();
    device.upload(&values, &buffer)?;
    device.gelu_norm(&buffer, rows, &own_bias, &norm)?;
    let expected = layer_norm(&biased.gelu_erf().unwrap(), &w, &b);
    report.line("gelu_norm", T::NAME, &shape, distance(&device.values(&buffer)?, &expected), bound);

    device.upload(&values, &buffer)?;
    device.quick_gelu(&buffer, rows, &own_bias)?;
    let gate = candle_nn::ops::sigmoid(&(&biased * 1.702).unwrap()).unwrap();
    report.line("quick_gelu", T::NAME, &shape, distance(&device.values(&buffer)?, &(biased * gate).unwrap()), bound);
    Ok(())
}

fn products<T: Format, O: Format>(
    device: &Device,
    report: &mut Report,
    rows: usize,
    outputs: usize,
    inner: usize,
    bound: f64,
) -> Result<(), CudaError> {
    let (w, x) = (report.values::<T>(outputs * inner, 1.0, 0.0), report.values::<T>(rows * inner, 1.0, 0.0));
    let expected = tensor(&x, &[rows, inner]).matmul(&tensor(&w, &[outputs, inner]).t().unwrap()).unwrap();
    let weights = Matrix::new(device.buffer(&w)?, outputs, inner)?;
    let (x, stride) = (device.buffer(&x)?, outputs.next_multiple_of(8));
    for way in [Way::Blas, Way::FewRows] {
        if way == Way::FewRows && ![1, 2].contains(&rows) {
            continue;
        }
        let y = unwritten::<O>(device, rows * stride)?;
        device.product_by(way, &weights, &x, rows, &y, stride)?;
        let y: Vec<O> = device.values(&y)?.chunks(stride).flat_map(|row| row[..outputs].to_vec()).collect();
        let name = format!("product {way:?} to {}", O::NAME);
        report.line(&name, T::NAME, &[rows, outputs, inner], distance(&y, &expected), bound.max(1e-5));
    }
    Ok(())
}

/// softmax(q kᵀ / √d) v: [rows, d] against [columns, d], of which row i sees `first + i · step`.
fn attention(q: &Tensor, k: &Tensor, v: &Tensor, first: usize, step: usize) -> Tensor {
    let (rows, columns) = (q.dim(0).unwrap(), k.dim(0).unwrap());
    let scores = (q.matmul(&k.t().unwrap()).unwrap() / (q.dim(1).unwrap() as f64).sqrt()).unwrap();
    let cell = |i: usize, j: usize| if j < first + i * step { 0.0 } else { -1e30f64 };
    let mask: Vec<f64> = (0..rows).flat_map(|i| (0..columns).map(move |j| cell(i, j))).collect();
    let scores = (scores + Tensor::from_vec(mask, (rows, columns), &Host::Cpu).unwrap()).unwrap();
    candle_nn::ops::softmax(&scores, D::Minus1).unwrap().matmul(v).unwrap()
}

#[allow(clippy::too_many_arguments, reason = "a case of a table")]
fn newest<T: Format, S: Kept<T>>(
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
    // Older tokens go in by the kernel for prompts.
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

    // What one slot takes over from another, the other's results are the same from there.
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
    let lying = Contexts {
        keys: &buffer.part(width..buffer.len()),
        values: &buffer.part(2 * width..buffer.len()),
        scales: None,
        context: length * 3 * width,
        head: head_dim,
        column: 3 * width,
        contexts,
        columns: length,
    };
    let (own, bias) = (device.buffer(&queries)?, device.buffer(&value_bias)?);
    let out = unwritten::<T>(device, total * width)?;
    let asked = Attention {
        tiles: &table,
        queries: &own,
        query_stride: width,
        query_bias: None,
        value_bias: Some(&bias),
        contexts: &lying,
        heads,
        head_dim,
        out: &out,
    };
    device.attend_by(on_tensor_cores, &asked)?;

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

/// Best tokens, masked ones and scores, against candle's log-softmax.
pub(crate) fn choose(device: &Device, report: &mut Report) -> Result<(), CudaError> {
    for vocabulary in [65_037usize, 4138] {
        let (rows, stride, first) = (64, vocabulary.next_multiple_of(8), vocabulary - 1024);
        let logits = report.values::<f32>(rows * stride, 3.0, 0.0);
        let codes: Vec<u16> = (0..vocabulary)
            .map(|id| if id >= first { 9 << 10 | (id - first) as u16 } else { (id % 9) as u16 * 1024 })
            .collect();
        let plain =
            Want { target: None, set: Want::EVERYTHING, upper_left: 0, patches: (first as u32, vocabulary as u32) };
        let want = |row: usize| match row % 4 {
            0 => plain,
            1 => Want { set: 1 << (row % 9), ..plain },
            2 => Want { set: 1 << 9, upper_left: 333, ..plain },
            _ => Want { target: Some(row as u32), ..plain },
        };
        let asked: Vec<Want> = (0..rows).map(want).collect();
        let table = Wants::new(device, rows, vocabulary)?;
        table.set(device, &asked)?;
        let choices = device.buffer(&vec![77u32; rows * 4])?;
        device.choose(&device.buffer(&logits)?, rows, stride, &table, &device.buffer(&codes)?, &choices)?;
        let allowed = |id: usize, want: &Want| {
            let (kind, cell) = (codes[id] >> 10, codes[id] & 1023);
            let reaches = want.upper_left % 32 <= cell % 32 && want.upper_left / 32 <= cell / 32;
            want.set == Want::EVERYTHING || (want.set >> kind & 1 == 1 && (kind != 9 || reaches))
        };
        let mut apart = 0f64;
        let mut misses = 0;
        for (row, (chosen, want)) in Chosen::read(&device.values(&choices)?).iter().zip(&asked).enumerate() {
            let values = tensor(&logits[row * stride..][..vocabulary], &[vocabulary]);
            let logprobs = candle_nn::ops::log_softmax(&values, 0).unwrap().to_vec1::<f64>().unwrap();
            let mut best = None;
            for id in (0..vocabulary).filter(|&id| allowed(id, want)) {
                if best.is_none_or(|best: usize| logprobs[id] > logprobs[best]) {
                    best = Some(id);
                }
            }
            let expected = want.target.map_or(best, |token| Some(token as usize)).unwrap();
            misses += usize::from(chosen.token as usize != expected);
            apart = apart.max((f64::from(chosen.logprob) - logprobs[expected]).abs());
        }
        report.line("choose_tokens", "f32", &[rows, vocabulary], misses as f64 + apart, 2e-5);
    }
    Ok(())
}

/// A recorded step sees what its buffers hold when it is replayed.
pub(crate) fn recording(device: &Device, report: &mut Report) -> Result<(), CudaError> {
    let (weights, x) = (report.values::<f32>(64 * 64, 1.0, 0.0), report.values::<f32>(3 * 64, 1.0, 0.0));
    let matrix = Matrix::new(device.buffer(&weights)?, 64, 64)?;
    let (input, y) = (device.zeros::<f32>(3 * 64)?, device.zeros::<f32>(3 * 64)?);
    let step = || device.product_by(Way::Blas, &matrix, &input, 3, &y, 64);
    step()?;
    let mut graph = device.record(step)?;
    device.upload(&x, &input)?;
    graph.replay()?;
    let expected = tensor(&x, &[3, 64]).matmul(&tensor(&weights, &[64, 64]).t().unwrap()).unwrap();
    assert_eq!(expected.dtype(), DType::F64);
    report.line("a recorded step", "f32", &[3, 64, 64], distance(&device.values(&y)?, &expected), 1e-5);
    Ok(())
}
