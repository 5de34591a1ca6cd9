//! The linear layers of the model's shapes against the register-only peak.

use crate::pipeline::AnyError;
use crate::{calibrate, stats};
use clap::ValueEnum;
use serde::Serialize;
use shoal_kernels::Dtype;
use shoal_kernels::cpu::{
    Activation, CpuIsa, CpuWorkers, Element, Epilogue, OpError, PackedLinear, PeakLoop, Team,
};
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The format of the weights.
    #[arg(long, default_value = "bf16")]
    dtype: Dtype,
    /// The instruction set; the fastest of this machine by default.
    #[arg(long)]
    cpu_isa: Option<CpuIsa>,
    /// Rows of the batch.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 64, 256, 512, 2048])]
    rows: Vec<usize>,
    /// How threads take part.
    #[arg(long, value_delimiter = ',', default_values = ["one", "shared", "streams"])]
    mode: Vec<Mode>,
    /// Brackets per figure; the median counts.
    #[arg(long, default_value_t = 7)]
    brackets: usize,
    /// Cycle through this many megabytes of weights, so that they come from beyond the second-level cache.
    #[arg(long, default_value_t = 0)]
    cold_mib: usize,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// One thread.
    One,
    /// Two threads share each product.
    Shared,
    /// Two threads, each with its own products: how the lanes run under load.
    Streams,
}

/// One linear layer of the model: inputs, outputs, what the model does with the product while it is stored.
const SHAPES: [(&str, usize, usize, Then); 4] = [
    ("qkv", 384, 1152, Then::Store),
    ("out", 384, 384, Then::Add),
    ("ffn1", 384, 1536, Then::Gelu),
    ("ffn2", 1536, 384, Then::Add),
];

/// What becomes of a product.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Then {
    Store,
    Add,
    Gelu,
}

impl Then {
    fn epilogue(self) -> Epilogue {
        match self {
            Self::Store => Epilogue::Activate(Activation::Identity),
            Self::Add => Epilogue::Add,
            Self::Gelu => Epilogue::Activate(Activation::GeluErf),
        }
    }
}

#[derive(Serialize)]
struct Report {
    isa: String,
    dtype: String,
    peak: &'static str,
    results: Vec<Figure>,
}

#[derive(Serialize)]
struct Figure {
    shape: &'static str,
    then: Then,
    rows: usize,
    mode: Mode,
    /// Share of the peak of the loop whose instruction the tiles use, median over the brackets.
    percent_of_peak: f64,
    gflops: f64,
    /// The peak itself, median.
    peak_gflops: f64,
    microseconds: f64,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shape, then, rows, mode, percent_of_peak, gflops, microseconds, .. } = self;
        let (then, mode) = (format!("{then:?}").to_lowercase(), format!("{mode:?}").to_lowercase());
        write!(
            f,
            "{shape:>5} {then:>5} {rows:>5} {mode:>8} {percent_of_peak:>7.1} {gflops:>9.1} {microseconds:>9.1}"
        )
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let isa = arguments.cpu_isa.unwrap_or_else(CpuIsa::detect);
    let native = isa.activation_dtype(arguments.dtype) == Dtype::Bf16;
    let peak = PeakLoop::of(isa, arguments.dtype).ok_or("there is no peak loop for portable code")?;
    let mut report = Report {
        isa: isa.to_string(),
        dtype: arguments.dtype.to_string(),
        peak: peak.name(),
        results: Vec::new(),
    };
    if !arguments.json {
        println!("{isa}, {} weights, share of the peak of {}", arguments.dtype, peak.name());
        println!(
            "{:>5} {:>5} {:>5} {:>8} {:>7} {:>9} {:>9}",
            "shape", "then", "rows", "mode", "% peak", "GFLOP/s", "us"
        );
    }
    let mut bench = Bench { peak, brackets: arguments.brackets, team: Team::new(2) };
    for (shape, inputs, outputs, last) in SHAPES {
        let one = pack(isa, arguments.dtype, outputs, inputs)?;
        let copies = ((arguments.cold_mib << 20) / one.bytes()).max(1);
        let mut layers = vec![one];
        for _ in 1..copies {
            layers.push(pack(isa, arguments.dtype, outputs, inputs)?);
        }
        // The product alone, then with what the model fuses into it.
        let thens: &[Then] = if last == Then::Store { &[last] } else { &[Then::Store, last] };
        let modes = |rows| arguments.mode.iter().map(move |&mode| (rows, mode));
        let cases = |then| arguments.rows.iter().flat_map(|&rows| modes(rows)).map(move |case| (then, case));
        for (then, (rows, mode)) in thens.iter().flat_map(|&then| cases(then)) {
            let product = Product { isa, layers: &layers, epilogue: then.epilogue(), rows, mode };
            let measured = if native {
                bench.measure::<half::bf16>(&product)?
            } else {
                bench.measure::<f32>(&product)?
            };
            let figure = Figure { shape, then, rows, mode, ..measured };
            if !arguments.json {
                println!("{figure}");
            }
            report.results.push(figure);
        }
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

fn pack(isa: CpuIsa, dtype: Dtype, outputs: usize, inputs: usize) -> Result<PackedLinear, AnyError> {
    let bias = vec![0.01; outputs];
    let fill = |output: usize, row: &mut [f32]| {
        row.iter_mut()
            .enumerate()
            .for_each(|(input, weight)| *weight = sample(output * inputs + input) * 0.05);
    };
    Ok(PackedLinear::pack(isa, dtype, outputs, inputs, Some(&bias), fill)?)
}

/// A value in `[-1, 1)` that looks random enough for a multiplier.
fn sample(index: usize) -> f32 {
    let hashed = (index as u32).wrapping_mul(2_654_435_761);
    (hashed >> 8) as f32 / 8_388_608.0 - 1.0
}

/// One figure's work.
struct Product<'a> {
    isa: CpuIsa,
    layers: &'a [PackedLinear],
    epilogue: Epilogue,
    rows: usize,
    mode: Mode,
}

struct Bench {
    peak: PeakLoop,
    brackets: usize,
    team: Team,
}

/// About how long the work of one bracket takes.
const BRACKET: Duration = Duration::from_millis(4);
/// How long the peak loop runs between two brackets.
const PEAK: Duration = Duration::from_micros(700);
/// Brackets whose peaks differ by more are measured again, twice as many times at most.
const PEAK_DRIFT_MAX: f64 = 0.03;

impl Bench {
    fn measure<T: Element>(&mut self, product: &Product<'_>) -> Result<Figure, AnyError> {
        let layer = &product.layers[0];
        let flop = 2.0 * (product.rows * layer.inputs() * layer.outputs()) as f64;
        let streams = if product.mode == Mode::Streams { 2 } else { 1 };
        let mut lanes = (0..streams).map(|_| Lane::<T>::new(product)).collect::<Vec<_>>();
        let once = lanes[0].time(product, 2)? / 2.0;
        let calls = (BRACKET.as_secs_f64() / once).ceil().clamp(1.0, 5000.0) as usize;
        let (mut shares, mut rates, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
        let mut before = self.peak(&mut lanes);
        for _ in 0..3 * self.brackets {
            let seconds = self.time(&mut lanes, product, calls)?;
            let after = self.peak(&mut lanes);
            let (peak, drift) = ((before + after) / 2.0, (before / after - 1.0).abs());
            before = after;
            if drift < PEAK_DRIFT_MAX {
                let rate = flop * (calls * streams) as f64 / seconds * 1e-9;
                shares.push(rate / peak * 100.0);
                rates.push(rate);
                peaks.push(peak);
            }
            if shares.len() == self.brackets {
                break;
            }
        }
        let gflops = stats::median(&rates);
        Ok(Figure {
            shape: "",
            then: Then::Store,
            rows: product.rows,
            mode: product.mode,
            percent_of_peak: stats::median(&shares),
            gflops,
            peak_gflops: stats::median(&peaks),
            microseconds: flop / gflops * 1e-3,
        })
    }

    /// The peak of the threads that do the work: a thread of another team may sit on the same core.
    fn peak<T: Element>(&mut self, lanes: &mut [Lane<T>]) -> f64 {
        match lanes {
            [lane] => {
                let threads = lane.workers.threads_max();
                calibrate::measure(lane.workers.team(), threads, self.peak, PEAK)
            }
            _ => calibrate::measure(&mut self.team, lanes.len(), self.peak, PEAK),
        }
    }

    /// Runs every lane at once and returns the seconds of the slowest.
    fn time<T: Element>(
        &mut self,
        lanes: &mut [Lane<T>],
        product: &Product<'_>,
        calls: usize,
    ) -> Result<f64, AnyError> {
        if let [lane] = lanes {
            return Ok(lane.time(product, calls)?);
        }
        let lanes: Vec<_> = lanes.iter_mut().map(|lane| Mutex::new((lane, Ok(0.0)))).collect();
        self.team.run(lanes.len(), &|thread| {
            let (lane, seconds) = &mut *lanes[thread].lock().expect("a lane does not panic");
            *seconds = lane.time(product, calls);
        });
        let times = lanes.into_iter().map(|lane| lane.into_inner().expect("a lane does not panic").1);
        Ok(times.collect::<Result<Vec<_>, _>>()?.into_iter().fold(0.0, f64::max))
    }
}

/// A cache line.
const LINE_BYTES: usize = 64;

/// One caller with its threads, input and output.
struct Lane<T> {
    workers: CpuWorkers,
    x: Vec<T>,
    out: Vec<T>,
    /// Where in `out` a cache line begins, as in a lane's own buffers: stores that straddle lines cost some per cent.
    out_start: usize,
}

impl<T: Element> Lane<T> {
    fn new(product: &Product<'_>) -> Self {
        let layer = &product.layers[0];
        let out = vec![T::zeroed(); product.rows * layer.outputs() + LINE_BYTES];
        Self {
            workers: CpuWorkers::new(if product.mode == Mode::Shared { 2 } else { 1 }),
            x: (0..product.rows * layer.inputs()).map(|index| T::from_f32(sample(index))).collect(),
            out_start: out.as_ptr().align_offset(LINE_BYTES),
            out,
        }
    }

    /// The seconds of `calls` products.
    fn time(&mut self, product: &Product<'_>, calls: usize) -> Result<f64, OpError> {
        let threads = self.workers.threads_max();
        let start = Instant::now();
        for layer in product.layers.iter().cycle().take(calls) {
            let mut ops = self.workers.ops(product.isa, threads)?;
            let out = &mut self.out[self.out_start..][..product.rows * layer.outputs()];
            ops.linear(layer, &self.x, product.epilogue, out)?;
        }
        Ok(start.elapsed().as_secs_f64())
    }
}
