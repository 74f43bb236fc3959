//! Comparisons with candle.

mod attention;

pub(crate) use attention::int8_cache;
use candle_core::{D, DType, Device as Host, Tensor};
use kernels::cuda::index_tables::{RowRequest, RowRequests};
use kernels::cuda::{Buffer, CudaError, Device, Format, Matrix, Norm, ProductKernel, Residual, SelectedToken};
use kernels::token_mask::{CELL_BITS, PATCH_KIND};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const EPS: f64 = 1e-5;

/// The number of checks and of wrong results so far.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) checks: usize,
    pub(crate) wrong: usize,
    draws: u64,
}

impl Report {
    fn line(&mut self, kernel: &str, format: &str, shape: &[usize], error: f64, bound: f64) {
        // Not `error > bound`: a NaN is wrong.
        let right = error <= bound;
        self.checks += 1;
        self.wrong += usize::from(!right);
        let verdict = if right { "right" } else { "WRONG" };
        println!("{kernel:24} {format:5} {:24} {error:9.2e}  {verdict}", format!("{shape:?}"));
    }

    /// Approximately normal values, different at each call.
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

/// The relative error ‖found − expected‖ / ‖expected‖.
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

/// Checks all kernels of a format; `bound` is the largest relative error allowed.
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
    attention::format::<T>(device, report, bound)
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
        row_indices: None,
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
    for kernel in [ProductKernel::Blas, ProductKernel::FewRows] {
        if kernel == ProductKernel::FewRows && ![1, 2].contains(&rows) {
            continue;
        }
        let y = unwritten::<O>(device, rows * stride)?;
        device.product_by(kernel, &weights, &x, rows, &y, stride)?;
        let y: Vec<O> = device.values(&y)?.chunks(stride).flat_map(|row| row[..outputs].to_vec()).collect();
        let name = format!("product {kernel:?} to {}", O::NAME);
        report.line(&name, T::NAME, &[rows, outputs, inner], distance(&y, &expected), bound.max(1e-5));
    }
    Ok(())
}

/// Checks the selection of the best token, of the best allowed token, and log-probabilities, against candle's
/// log-softmax.
pub(crate) fn select_tokens(device: &Device, report: &mut Report) -> Result<(), CudaError> {
    for vocabulary in [65_037usize, 4138] {
        let (rows, stride, first) = (64, vocabulary.next_multiple_of(8), vocabulary - 1024);
        let logits = report.values::<f32>(rows * stride, 3.0, 0.0);
        let codes: Vec<u16> = (0..vocabulary)
            .map(|id| {
                if id >= first { PATCH_KIND << CELL_BITS | (id - first) as u16 } else { ((id % 9) as u16) << CELL_BITS }
            })
            .collect();
        let plain = RowRequest {
            target: None,
            set: RowRequest::EVERYTHING,
            upper_left: 0,
            patches: (first as u32, vocabulary as u32),
        };
        let request = |row: usize| match row % 4 {
            0 => plain,
            1 => RowRequest { set: 1 << (row % 9), ..plain },
            2 => RowRequest { set: 1 << PATCH_KIND, upper_left: 333, ..plain },
            _ => RowRequest { target: Some(row as u32), ..plain },
        };
        let requests: Vec<RowRequest> = (0..rows).map(request).collect();
        let table = RowRequests::new(device, rows, vocabulary)?;
        table.set(device, &requests)?;
        let results = device.buffer(&vec![77u32; rows * 4])?;
        device.select_tokens(&device.buffer(&logits)?, rows, stride, &table, &device.buffer(&codes)?, &results)?;
        let allowed = |id: usize, request: &RowRequest| {
            let (kind, cell) = (codes[id] >> CELL_BITS, codes[id] & ((1 << CELL_BITS) - 1));
            let in_reach = request.upper_left % 32 <= cell % 32 && request.upper_left / 32 <= cell / 32;
            request.set == RowRequest::EVERYTHING || (request.set >> kind & 1 == 1 && (kind != PATCH_KIND || in_reach))
        };
        let mut error = 0f64;
        let mut wrong_tokens = 0;
        let selected = SelectedToken::read(&device.values(&results)?);
        for (row, (selected, request)) in selected.iter().zip(&requests).enumerate() {
            let values = tensor(&logits[row * stride..][..vocabulary], &[vocabulary]);
            let logprobs = candle_nn::ops::log_softmax(&values, 0).unwrap().to_vec1::<f64>().unwrap();
            let mut best = None;
            for id in (0..vocabulary).filter(|&id| allowed(id, request)) {
                if best.is_none_or(|best: usize| logprobs[id] > logprobs[best]) {
                    best = Some(id);
                }
            }
            let expected = request.target.map_or(best, |token| Some(token as usize)).unwrap();
            wrong_tokens += usize::from(selected.token as usize != expected);
            error = error.max((f64::from(selected.logprob) - logprobs[expected]).abs());
        }
        report.line("select_tokens", "f32", &[rows, vocabulary], wrong_tokens as f64 + error, 2e-5);
    }
    Ok(())
}

/// Checks that a recorded step reads the contents that its buffers have when it is replayed.
pub(crate) fn recording(device: &Device, report: &mut Report) -> Result<(), CudaError> {
    let (weights, x) = (report.values::<f32>(64 * 64, 1.0, 0.0), report.values::<f32>(3 * 64, 1.0, 0.0));
    let matrix = Matrix::new(device.buffer(&weights)?, 64, 64)?;
    let (input, y) = (device.zeros::<f32>(3 * 64)?, device.zeros::<f32>(3 * 64)?);
    let step = || device.product_by(ProductKernel::Blas, &matrix, &input, 3, &y, 64);
    step()?;
    let mut graph = device.record(step)?;
    device.upload(&x, &input)?;
    graph.replay()?;
    let expected = tensor(&x, &[3, 64]).matmul(&tensor(&weights, &[64, 64]).t().unwrap()).unwrap();
    assert_eq!(expected.dtype(), DType::F64);
    report.line("a recorded step", "f32", &[3, 64, 64], distance(&device.values(&y)?, &expected), 1e-5);
    Ok(())
}
