//! The linear layer with its epilogue fused.

use super::AlignedBuf;
use super::element::{self, Element};
use super::error::{OpError, expect_size};
use super::operand::Units;
use super::ops::{CpuOps, Scratch};
use super::shared::SharedMut;
use super::simd::{Kernel, Simd, dispatch, math};
use super::tile::{Finish, ROWS_MAX, TileArgs, TileFormat, ZEROS, balanced, panel_columns, tiles};
use super::weights::PackedLinear;
use super::{Activation, Epilogue};
use crate::Dtype;
use std::ops::Range;

/// Bytes of A that stay in the second-level cache while every panel of B passes by.
const A_BLOCK_BYTES_MAX: usize = 512 << 10;

/// More rows than this make it worth widening a panel of bf16 once instead of in every tile.
const WIDEN_ROWS_MIN: usize = 36;

/// Up to here threads share the panels of B, so that each weight is read by one of them; above, they share the rows.
const PANEL_SPLIT_ROWS_MAX: usize = 64;

/// Rows of one item when threads share the rows.
const SPLIT_ROWS: usize = 64;

impl CpuOps<'_> {
    /// What the epilogue says of `x W^T + b`, for `x [rows, inputs]` and `out [rows, outputs]`.
    ///
    /// Sums are f32 and run over `inputs` in one order: a row's bits depend on that row alone.
    ///
    /// # Errors
    /// Shapes that do not fit, weights packed for another set, bf16 activations with f32 weights.
    pub fn linear<T: Element>(
        &mut self,
        weights: &PackedLinear,
        x: &[T],
        epilogue: Epilogue,
        out: &mut [T],
    ) -> Result<(), OpError> {
        const OP: &str = "linear";
        let rows = x.len() / weights.inputs();
        expect_size(OP, "x", x.len(), rows * weights.inputs())?;
        expect_size(OP, "out", out.len(), rows * weights.outputs())?;
        if weights.isa() != self.isa() {
            return Err(OpError::IsaMismatch { packed: weights.isa(), requested: self.isa() });
        }
        let halves = |gated: bool| if gated { 2 } else { 1 };
        let wanted = halves(matches!(epilogue, Epilogue::Gate(_)));
        expect_size(OP, "layers packed into one", halves(weights.is_gated()), wanted)?;
        let format = match (T::DTYPE, weights.dtype()) {
            (Dtype::F32, Dtype::F32) => TileFormat::F32,
            (Dtype::F32, Dtype::F16) => TileFormat::F16,
            (Dtype::F32, _) => TileFormat::F32ByBf16,
            (_, Dtype::Bf16) => TileFormat::Bf16,
            (activations, weights) => {
                return Err(OpError::UnsupportedDtype { isa: self.isa(), activations, weights });
            }
        };
        let product =
            Product { weights, format, x, epilogue, out: SharedMut::new(out), call: self.next_call() };
        let (row_parts, panel_parts) = self.split(rows, weights.panels());
        self.for_each(row_parts * panel_parts, &|scratch, item| {
            let part =
                |index: usize, parts: usize, len: usize| len * index / parts..len * (index + 1) / parts;
            let rows = part(item / panel_parts, row_parts, rows);
            let panels = part(item % panel_parts, panel_parts, weights.panels());
            // SAFETY: the items of one call cover different parts of the output.
            unsafe { product.run(rows, panels, scratch) }
        });
        Ok(())
    }

    /// Into how many parts rows and panels are cut.
    fn split(&self, rows: usize, panels: usize) -> (usize, usize) {
        if self.threads == 1 {
            (1, 1)
        } else if rows <= PANEL_SPLIT_ROWS_MAX {
            (1, panels.min(4 * self.threads))
        } else {
            (self.threads * rows.div_ceil(SPLIT_ROWS * self.threads), 1)
        }
    }
}

/// One call of `linear`, its shapes checked.
struct Product<'a, T> {
    weights: &'a PackedLinear,
    format: TileFormat,
    x: &'a [T],
    epilogue: Epilogue,
    out: SharedMut<'a, T>,
    call: u64,
}

impl<T: Element> Product<'_, T> {
    /// Computes the outputs of `panels` for `rows`, block by block.
    ///
    /// # Safety
    /// No other thread writes these outputs.
    unsafe fn run(&self, rows: Range<usize>, panels: Range<usize>, scratch: &mut Scratch) {
        let inputs = self.weights.inputs();
        let cap = (A_BLOCK_BYTES_MAX / (inputs * size_of::<T>())).max(ROWS_MAX);
        for block in balanced(rows.len(), cap) {
            let rows = rows.start + block.start..rows.start + block.end;
            let x = &self.x[rows.start * inputs..rows.end * inputs];
            let Scratch { tile, panel, operand, .. } = scratch;
            let a = operand.prepare(self.format, x, inputs, (self.call, rows.start));
            let block =
                Block { product: self, rows, panels: panels.clone(), a, tile: tile.as_mut_ptr(), panel };
            dispatch(self.weights.verified_isa(), block);
        }
    }
}

/// The product of one block of rows with some panels.
struct Block<'a, 'b, T> {
    product: &'b Product<'a, T>,
    rows: Range<usize>,
    panels: Range<usize>,
    a: Units<'b>,
    /// One register tile before its epilogue.
    tile: *mut f32,
    panel: &'b mut AlignedBuf<f32>,
}

impl<T: Element> Kernel for Block<'_, '_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Product { weights, format, epilogue, out, .. } = *self.product;
        let columns = panel_columns(weights.isa());
        let widen = format == TileFormat::F32ByBf16 && self.rows.len() > WIDEN_ROWS_MIN;
        if widen {
            self.panel.reserve(weights.inputs().next_multiple_of(2) * columns);
        }
        let fused = fused(format, epilogue);
        let tiles = |finish| tiles(weights.isa(), if widen { TileFormat::F32 } else { format }, finish);
        for panel in self.panels.clone() {
            let mut b = weights.panel(panel).0.as_ptr();
            if widen {
                // SAFETY: the caller vouches for S; the scratch was made large enough above.
                unsafe { widen_panel::<S>(weights.panel(panel).0, columns, self.panel) };
                b = self.panel.as_ptr().cast();
            }
            let column = panel * weights.panel_outputs();
            let used = weights.panel_outputs().min(weights.outputs() - column);
            // A tile writes whole panels.
            let fused = fused.filter(|_| used == columns);
            let heights = tiles(fused.unwrap_or(Finish::Sums));
            for rows in balanced(self.rows.len(), heights.len()) {
                let to = Output {
                    start: out.at((self.rows.start + rows.start) * weights.outputs() + column),
                    stride: weights.outputs(),
                    rows: rows.len(),
                    used,
                };
                let tile = heights[rows.len() - 1];
                let mut args = self.operands(panel, b, rows.clone());
                // SAFETY: the rows of A and the panel have `steps` units by the checks of `linear` and `pack`; the output rows
                // belong to this call alone, and `used` keeps inside of them; the tile buffer holds a whole tile.
                unsafe {
                    to.prefetch::<S>();
                    if fused.is_some() {
                        (args.out, args.out_stride) = (to.start.cast(), to.stride);
                        tile(&args);
                    } else {
                        tile(&args);
                        let rescale = (format == TileFormat::F16).then(|| self.rescale(panel, rows));
                        to.write::<S>(epilogue, self.tile, columns, rescale);
                    }
                }
            }
        }
    }
}

/// What the tiles of a format do themselves of an epilogue.
fn fused(format: TileFormat, epilogue: Epilogue) -> Option<Finish> {
    match epilogue {
        // Their sums are still scaled.
        _ if format == TileFormat::F16 => None,
        Epilogue::Add => Some(Finish::Add),
        Epilogue::Activate(Activation::Identity) => Some(Finish::Store),
        Epilogue::Activate(_) | Epilogue::Gate(_) => None,
    }
}

impl<T: Element> Block<'_, '_, T> {
    /// The operands of one tile whose panel lies at `b`, its output being the tile buffer.
    #[inline(always)]
    fn operands(&self, panel: usize, b: *const u32, rows: Range<usize>) -> TileArgs {
        let Product { weights, format, .. } = *self.product;
        let (units, bias) = weights.panel(panel);
        TileArgs {
            // Pairs count once on both sides; rows of f32 count their own elements.
            steps: match format {
                TileFormat::F32 | TileFormat::F32ByBf16 => weights.inputs(),
                TileFormat::Bf16 | TileFormat::F16 => weights.steps(),
            },
            a: self.a.first.wrapping_add(rows.start * self.a.stride),
            a_stride: self.a.stride,
            b,
            // Each tile asks for its share of the next panel.
            next: units.as_ptr_range().end.wrapping_add(rows.start * units.len() / self.rows.len()).cast(),
            start: if format == TileFormat::F16 { ZEROS.as_ptr() } else { bias.as_ptr() },
            out: self.tile.cast(),
            out_stride: panel_columns(weights.isa()),
        }
    }

    #[inline(always)]
    fn rescale(&self, panel: usize, rows: Range<usize>) -> Rescale<'_> {
        let weights = self.product.weights;
        Rescale {
            rows: &self.a.inverse_scales[rows],
            columns: weights.panel_scales(panel),
            bias: weights.panel(panel).1,
        }
    }
}

/// Widens a panel of pairs to f32, one row per input.
///
/// # Safety
/// The machine supports `S`; `wide` is twice as long as `units`.
#[inline(always)]
unsafe fn widen_panel<S: Simd>(units: &[u32], columns: usize, wide: &mut [f32]) {
    for (pairs, rows) in units.chunks_exact(columns).zip(wide.chunks_exact_mut(2 * columns)) {
        for vector in (0..columns).step_by(S::LANES) {
            // SAFETY: `columns` is a multiple of LANES, so the vectors lie inside of the chunks.
            unsafe {
                let pairs = S::load(pairs.as_ptr().add(vector).cast());
                S::store(rows.as_mut_ptr().add(vector), S::even(pairs));
                S::store(rows.as_mut_ptr().add(columns + vector), S::odd(pairs));
            }
        }
    }
}

/// How the sums of scaled operands become those of the operands themselves.
struct Rescale<'a> {
    rows: &'a [f32],
    columns: &'a [f32],
    bias: &'a [f32],
}

impl Rescale<'_> {
    /// # Safety
    /// The machine supports `S`; a vector from `column` on lies inside of the panel.
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, row: usize, column: usize, sum: S::V) -> S::V {
        // SAFETY: scales and bias are as long as the panel, which the caller keeps to.
        unsafe {
            let scale = S::mul(S::splat(self.rows[row]), S::load(self.columns.as_ptr().add(column)));
            S::fma(sum, scale, S::load(self.bias.as_ptr().add(column)))
        }
    }
}

/// Where the rows of one tile go.
struct Output<T> {
    start: *mut T,
    /// Elements from one row to the next.
    stride: usize,
    rows: usize,
    /// Columns of the tile that exist.
    used: usize,
}

impl<T: Element> Output<T> {
    /// The tile takes longer than the lines from the third-level cache.
    #[inline(always)]
    fn prefetch<S: Simd>(&self) {
        for row in 0..self.rows {
            let start = self.start.wrapping_add(row * self.stride).cast::<u8>();
            for line in (0..self.used * size_of::<T>()).step_by(64) {
                S::prefetch_write(start.wrapping_add(line));
            }
        }
    }

    /// Applies the epilogue to the sums of a tile, `[rows, columns]` at `sums`.
    ///
    /// # Safety
    /// The machine supports `S`; rows of `used` elements are writable, `columns` is whole vectors.
    #[inline(always)]
    unsafe fn write<S: Simd>(
        &self,
        epilogue: Epilogue,
        sums: *const f32,
        columns: usize,
        rescale: Option<Rescale<'_>>,
    ) {
        // SAFETY: the caller's contract is the same; `count` elements are left at the address that a closure is given.
        unsafe {
            let map = Map { sums, columns, rescale };
            match epilogue {
                Epilogue::Add => {
                    map.run::<S, T>(self, |sum, at, count| S::add(sum, element::load::<S, T>(at, count)))
                }
                Epilogue::Activate(Activation::Identity) => map.run::<S, T>(self, |sum, _, _| sum),
                Epilogue::Activate(Activation::GeluErf) if T::DTYPE == Dtype::Bf16 => {
                    map.run::<S, T>(self, |sum, _, _| S::gelu_erf_bf16(sum))
                }
                Epilogue::Activate(Activation::GeluErf) => {
                    map.run::<S, T>(self, |sum, _, _| S::gelu_erf(sum))
                }
                Epilogue::Activate(other) => {
                    map.run::<S, T>(self, |sum, _, _| math::activate::<S>(other, sum))
                }
                Epilogue::Gate(Activation::GeluErf) if T::DTYPE == Dtype::Bf16 => {
                    map.run_gated::<S, T>(self, |gate| S::gelu_erf_bf16(gate))
                }
                Epilogue::Gate(Activation::GeluErf) => map.run_gated::<S, T>(self, |gate| S::gelu_erf(gate)),
                Epilogue::Gate(Activation::Silu) => {
                    map.run_gated::<S, T>(self, |gate| math::activate::<S>(Activation::Silu, gate))
                }
                Epilogue::Gate(other) => map.run_gated::<S, T>(self, |gate| math::activate::<S>(other, gate)),
            }
        }
    }
}

/// The sums of one tile on their way into its output.
struct Map<'a> {
    sums: *const f32,
    /// From one row of sums to the next.
    columns: usize,
    rescale: Option<Rescale<'a>>,
}

impl Map<'_> {
    /// Writes `map(sum, at, count)` to each place `at`, where `count` elements are left in the row.
    ///
    /// # Safety
    /// As for [`Output::write`].
    #[inline(always)]
    unsafe fn run<S: Simd, T: Element>(&self, to: &Output<T>, map: impl Fn(S::V, *const T, usize) -> S::V) {
        for row in 0..to.rows {
            for column in (0..to.used).step_by(S::LANES) {
                let count = to.used - column;
                // SAFETY: inside of `rows` rows of `used` elements; a tile's row is whole vectors long.
                unsafe {
                    let at = to.start.add(row * to.stride + column);
                    element::store::<S, T>(at, map(self.sum::<S>(row, column), at, count), count);
                }
            }
        }
    }

    /// Writes `activate(gate) * value` for each pair of sums; the gates are the first half of a row.
    ///
    /// # Safety
    /// As for [`Output::write`]; a row of sums is two vectors long.
    #[inline(always)]
    unsafe fn run_gated<S: Simd, T: Element>(&self, to: &Output<T>, activate: impl Fn(S::V) -> S::V) {
        for row in 0..to.rows {
            // SAFETY: inside of `rows` rows of `used` elements, of which one vector is the most.
            unsafe {
                let product = S::mul(activate(self.sum::<S>(row, 0)), self.sum::<S>(row, S::LANES));
                element::store::<S, T>(to.start.add(row * to.stride), product, to.used);
            }
        }
    }

    /// The sums of one row from `column` on.
    ///
    /// # Safety
    /// The machine supports `S`; a vector from there on lies inside of the tile.
    #[inline(always)]
    unsafe fn sum<S: Simd>(&self, row: usize, column: usize) -> S::V {
        // SAFETY: the caller's contract is the same.
        unsafe {
            let sum = S::load(self.sums.add(row * self.columns + column));
            match &self.rescale {
                Some(rescale) => rescale.apply::<S>(row, column, sum),
                None => sum,
            }
        }
    }
}
