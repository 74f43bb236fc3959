//! The time of each kernel at the published model's sizes in bf16, with its rates of memory access and computation.

use half::bf16;
use kernels::cuda::index_tables::{NewRow, RowLimits, RowRequest, RowRequests, Rows, Tile, TileLimits, Tiles};
use kernels::cuda::rates::{copied_bytes, median, product_flops};
use kernels::cuda::{
    Attention, Contexts, CudaError, Device, Format, KeyValueCache, KvFormat, Matrix, NewTokens, Norm, ProductKernel,
    Residual, Splits,
};

use crate::checks::Report;

const WIDTH: usize = 2048;
const INNER: usize = 8192;
const HEADS: usize = 32;
const HEAD_DIM: usize = 64;
const VOCABULARY: usize = 65_037;
/// Rows of the output head, padded.
const OUTPUTS: usize = 65_152;
/// Tokens of a context after half of 64 new ones.
const CONTEXT: usize = 103;
/// Consecutive launches over which a kernel's time is averaged.
const LAUNCHES: usize = 16;

struct Times<'a> {
    device: &'a Device,
    report: Report,
}

/// Prints one line per kernel.
pub(crate) fn table(device: &Device) -> Result<(), CudaError> {
    let mut times = Times { device, report: Report::default() };
    let values = times.report.values::<bf16>(1 << 20, 1.0, 0.0);
    println!("copy {:.0} GB/s", copied_bytes(device)? / 1e9);
    println!("product 8192³ bf16 {:.0} TFLOP/s", product_flops(device, &values)? / 1e12);
    println!("{:40} {:>9} {:>9} {:>9}", "kernel", "µs", "GB/s", "TFLOP/s");
    times.products()?;
    for rows in [1, 32, 256, 1024] {
        times.norms(rows)?;
        times.newest::<bf16>(rows)?;
        times.newest::<i8>(rows)?;
        times.select_tokens(rows)?;
    }
    times.tiles("vision, 64 pictures", 16, 64, 257, 257, false)?;
    times.tiles("prompts, 128 of 71", HEADS, 128, 71, 1, true)
}

impl Times<'_> {
    fn line(
        &self,
        name: &str,
        bytes: f64,
        flops: f64,
        work: impl Fn() -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let launches = || (0..LAUNCHES).try_for_each(|_| work());
        let seconds = median(self.device, launches)? / LAUNCHES as f64;
        println!("{name:40} {:9.1} {:9.0} {:9.1}", seconds * 1e6, bytes / seconds / 1e9, flops / seconds / 1e12);
        Ok(())
    }

    fn random<T: Format>(&mut self, count: usize) -> Result<kernels::cuda::Buffer<T>, CudaError> {
        let values = self.report.values::<T>(count.min(1 << 20), 1.0, 0.0);
        self.device.buffer(&values.iter().cycle().take(count).copied().collect::<Vec<T>>())
    }

    /// The products of the decoder, by cuBLAS and, for few rows, by `few_rows`. They alternate between several sets of
    /// weights, so that no cache holds them.
    fn products(&mut self) -> Result<(), CudaError> {
        for (outputs, inner) in [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (INNER, WIDTH), (WIDTH, INNER), (OUTPUTS, WIDTH)] {
            let bytes = outputs * inner * size_of::<bf16>();
            let sets = (200_000_000 / bytes).max(1);
            let weights = (0..sets)
                .map(|_| Matrix::new(self.random::<bf16>(outputs * inner)?, outputs, inner))
                .collect::<Result<Vec<_>, _>>()?;
            let stride = outputs;
            let (x, y) = (self.random::<bf16>(1024 * inner)?, self.device.zeros::<bf16>(1024 * stride)?);
            for rows in [1, 2, 8, 32, 256, 1024] {
                for kernel in [ProductKernel::FewRows, ProductKernel::Blas] {
                    if kernel == ProductKernel::FewRows && rows > 2 {
                        continue;
                    }
                    let all = || {
                        weights
                            .iter()
                            .try_for_each(|weights| self.device.product_by(kernel, weights, &x, rows, &y, stride))
                    };
                    let seconds = median(self.device, all)? / sets as f64;
                    let flops = 2.0 * (rows * outputs * inner) as f64;
                    let name = format!("product {kernel:?} {rows} x {outputs} x {inner}");
                    println!(
                        "{name:40} {:9.1} {:9.0} {:9.1}",
                        seconds * 1e6,
                        bytes as f64 / seconds / 1e9,
                        flops / seconds / 1e12
                    );
                }
            }
        }
        Ok(())
    }

    fn norms(&mut self, rows: usize) -> Result<(), CudaError> {
        let device = self.device;
        let norm = Norm::new(self.random(WIDTH)?, self.random(WIDTH)?, 1e-5)?;
        let (x, y, bias) = (self.random(rows * WIDTH)?, self.random::<bf16>(rows * WIDTH)?, self.random(WIDTH)?);
        let out = device.zeros::<bf16>(rows * WIDTH)?;
        let residual = Residual {
            x: &x,
            added: Some((&y, &bias)),
            row_indices: None,
            rows,
            norm: &norm,
            to_unit_length: false,
            out: &out,
        };
        let bytes = (rows * WIDTH * (4 + 2 + 4 + 2)) as f64;
        self.line(&format!("residual_norm {rows}"), bytes, 0.0, || device.residual_norm(&residual))?;
        let wide = Norm::new(self.random(INNER)?, self.random(INNER)?, 1e-5)?;
        let (inner, bias) = (self.random::<bf16>(rows * INNER)?, self.random(INNER)?);
        let bytes = (rows * INNER * 4) as f64;
        self.line(&format!("gelu_norm {rows}"), bytes, 0.0, || device.gelu_norm(&inner, rows, &bias, &wide))
    }

    fn newest<S: KvFormat<bf16>>(&mut self, rows: usize) -> Result<(), CudaError> {
        let device = self.device;
        let limits = RowLimits { tokens: 1, positions: 1, slots: rows, columns: 2 * CONTEXT };
        let cache = KeyValueCache::<S>::new::<bf16>(device, rows, HEADS, 2 * CONTEXT, HEAD_DIM)?;
        let table = Rows::new(device, rows, limits)?;
        let entry = |slot: usize| NewRow { token: 0, position: 0, slot: slot as u32, column: CONTEXT as u32 };
        table.set(device, &(0..rows).map(entry).collect::<Vec<_>>())?;
        let (qkv, bias) = (self.random::<bf16>(rows * 3 * WIDTH)?, self.random(3 * WIDTH)?);
        let norm = Norm::new(self.random(WIDTH)?, self.random(WIDTH)?, 1e-5)?;
        let out = device.zeros::<bf16>(rows * WIDTH)?;
        let bytes = (rows * KeyValueCache::<S>::slot_bytes::<bf16>(CONTEXT, HEADS, HEAD_DIM)) as f64;
        for splits in [1, 2, 4, 8] {
            if splits > 1 && rows > 256 {
                continue;
            }
            let parts = Splits::new(device, rows * splits, HEADS, HEAD_DIM)?.of(splits);
            self.line(&format!("attend_newest{} {rows}, {splits} splits", S::SUFFIX), bytes, 0.0, || {
                device.attend_newest(&table, rows, NewTokens { qkv: &qkv, bias: &bias }, &cache, true, &parts)
            })?;
            let read = (rows * splits * WIDTH * 4) as f64;
            self.line(&format!("merge_norm {rows}, {splits} splits"), read, 0.0, || {
                device.merge_norm(&parts, rows, HEADS, &norm, &out)
            })?;
        }
        Ok(())
    }

    fn select_tokens(&mut self, rows: usize) -> Result<(), CudaError> {
        let (device, stride) = (self.device, VOCABULARY.next_multiple_of(8));
        let logits = self.random::<f32>(rows * stride)?;
        let (codes, table) = (device.zeros::<u16>(VOCABULARY)?, RowRequests::new(device, rows, VOCABULARY)?);
        let results = device.zeros::<u32>(rows * 4)?;
        for (name, set) in [("free", RowRequest::EVERYTHING), ("masked", 0x3ff)] {
            let request = RowRequest { target: None, set, upper_left: 0, patches: (0, 0) };
            table.set(device, &vec![request; rows])?;
            let bytes = (rows * VOCABULARY * 4) as f64;
            self.line(&format!("select_tokens {rows}, {name}"), bytes, 0.0, || {
                device.select_tokens(&logits, rows, stride, &table, &codes, &results)
            })?;
        }
        Ok(())
    }

    fn tiles(
        &mut self,
        name: &str,
        heads: usize,
        contexts: usize,
        rows: usize,
        first_visible: u32,
        causal: bool,
    ) -> Result<(), CudaError> {
        let (device, width) = (self.device, heads * HEAD_DIM);
        let qkv = self.random::<bf16>(contexts * rows * 3 * width)?;
        let out = device.zeros::<bf16>(contexts * rows * width)?;
        let limits = TileLimits { queries: contexts * rows, contexts, columns: rows, out: contexts * rows };
        let list: Vec<Tile> = (0..contexts as u32)
            .flat_map(|context| {
                let first = context * rows as u32;
                Tile::cover(first, rows as u32, context, first_visible, causal, first)
            })
            .collect();
        let mut table = Tiles::new(device, list.len(), limits)?;
        table.set(device, &list)?;
        let interleaved = Contexts {
            keys: &qkv.part(width..qkv.len()),
            values: &qkv.part(2 * width..qkv.len()),
            scales: None,
            context_stride: rows * 3 * width,
            head_stride: HEAD_DIM,
            column_stride: 3 * width,
            contexts,
            columns: rows,
        };
        let pairs = if causal { rows * (rows + 1) / 2 } else { rows * rows };
        let (flops, bytes) = ((4 * contexts * pairs * width) as f64, (contexts * rows * 4 * width * 2) as f64);
        let attention = Attention {
            tiles: &table,
            queries: &qkv,
            query_stride: 3 * width,
            query_bias: None,
            value_bias: None,
            contexts: &interleaved,
            heads,
            head_dim: HEAD_DIM,
            out: &out,
        };
        for on_tensor_cores in [true, false] {
            let name = format!("attention {name}{}", if on_tensor_cores { ", tensor cores" } else { "" });
            self.line(&name, bytes, flops, || device.attend_by(on_tensor_cores, &attention))?;
        }
        Ok(())
    }
}
