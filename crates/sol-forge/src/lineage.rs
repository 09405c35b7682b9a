//! Which layer of one model comes from which of another: the similarity of every layer of B to every layer of A.
//!
//! Layers are compared by the cosine of matrices, which is 1 for copies, stays near it where a copy was trained, and is about
//! 0 for layers that have nothing to do with each other; a factor on the weights does not change it. Of large matrices evenly
//! spaced rows are compared: a million numbers say what all would, to about 0.001. A's numbers are in memory (of each layer
//! the rows that are compared), B's come one tensor at a time.

use std::io::Write;
use std::path::Path;

use sol_model::Role;
use sol_weights::{DType, Tensor, dequantize};

use crate::upscale::{Base, Part};
use crate::{Error, Result};

/// Numbers of a matrix that are compared, about.
const COMPARED: usize = 1 << 20;

/// Layers whose similarity is below this are not said to come from each other.
pub const RELATED: f32 = 0.5;

/// The matrices that tell layers apart best, as nothing else has their place in the network.
pub const DEFAULT_PARTS: [Part; 2] = [Part::O_PROJ, Part::DOWN_PROJ];

/// How similar every layer of B is to every layer of A.
#[derive(Clone, Debug, PartialEq)]
pub struct Lineage {
    /// Layers of A, of B.
    layers: [usize; 2],
    /// Row by row, one row for each layer of B: the mean cosine of the parts, or NaN where none could be compared.
    cosines: Vec<f32>,
    /// Likewise the mean of the ratios of lengths, B's to A's.
    ratios: Vec<f32>,
    /// Of each layer of B, whether it adds nothing to the stream.
    silent: Vec<bool>,
    sampled: bool,
}

/// Where a layer of B seems to come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Origin {
    /// The layer of B.
    pub layer: usize,
    /// The most similar layer of A; `None` where none is similar at all.
    pub source: Option<usize>,
    /// Their similarity; NaN where nothing could be compared.
    pub cosine: f32,
    /// That of the second most similar layer.
    pub second: f32,
    /// How much longer the weights are than the source's: the factor, for a scaled copy.
    pub ratio: f32,
    /// It adds nothing to the stream: compared were other parts of it.
    pub silent: bool,
}

/// Compares two models. `progress` is called with the number of B's layers done; when `stop` says so, the error is
/// [`Error::Interrupted`].
///
/// Parts of B that are zero say nothing; a layer whose parts are all zero (an inserted one of LLaMA-Pro) is compared by its
/// values, gate and up projections.
///
/// Fails where the models differ in shape ([`Error::Base`]).
pub fn lineage(a: &Base, b: &Base, parts: &[Part], stop: &dyn Fn() -> bool, progress: &mut dyn FnMut(usize)) -> Result<Lineage> {
    const OTHERS: [Role; 3] = [Role::Value, Role::Gate, Role::Up];
    let mut samples = Samples { stop, sampled: false };
    let units = parts.iter().map(|part| samples.all(a, *part)).collect::<Result<Vec<_>>>()?;
    let mut others: Vec<Vec<Unit>> = Vec::new();

    let mut cosines = Vec::with_capacity(a.layers() * b.layers());
    let mut ratios = Vec::with_capacity(a.layers() * b.layers());
    let mut silent = Vec::with_capacity(b.layers());
    for layer in 0..b.layers() {
        let mut row = Row::new(a.layers());
        for (part, units) in parts.iter().zip(&units) {
            row.add(&samples.one(b, layer, *part)?, units, a, b)?;
        }
        silent.push(row.compared == 0);
        if row.compared == 0 {
            if others.is_empty() {
                others = OTHERS.iter().map(|role| samples.all(a, Part(*role))).collect::<Result<Vec<_>>>()?;
            }
            for (role, units) in OTHERS.iter().zip(&others) {
                row.add(&samples.one(b, layer, Part(*role))?, units, a, b)?;
            }
        }
        row.finish(&mut cosines, &mut ratios);
        progress(layer + 1);
    }
    for base in [a, b] {
        base.checkpoint().unchanged()?;
    }
    Ok(Lineage { layers: [a.layers(), b.layers()], cosines, ratios, silent, sampled: samples.sampled })
}

impl Lineage {
    /// Layers of A and of B.
    pub fn layers(&self) -> [usize; 2] {
        self.layers
    }

    /// The similarity of a layer of B to every layer of A: from -1 to 1, or NaN.
    pub fn row(&self, layer_of_b: usize) -> &[f32] {
        let [a, _] = self.layers;
        &self.cosines[layer_of_b * a..][..a]
    }

    /// Whether only a part of the rows of large matrices was compared.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// Where each layer of B seems to come from.
    pub fn origins(&self) -> Vec<Origin> {
        let [a, b] = self.layers;
        let origin = |layer: usize| {
            let mut order: Vec<usize> = (0..a).filter(|&source| !self.row(layer)[source].is_nan()).collect();
            order.sort_by(|x, y| self.row(layer)[*y].total_cmp(&self.row(layer)[*x]));
            let at = |rank: usize| order.get(rank).map_or(f32::NAN, |&source| self.row(layer)[source]);
            let source = order.first().copied().filter(|_| at(0) >= RELATED);
            let ratio = source.map_or(f32::NAN, |source| self.ratios[layer * a + source]);
            Origin { layer, source, cosine: at(0), second: at(1), ratio, silent: self.silent[layer] }
        };
        (0..b).map(origin).collect()
    }

    /// The heat map as an SVG picture: B's layers from top to bottom, A's from left to right.
    pub fn svg(&self, names: [&str; 2]) -> String {
        const CELL: usize = 12;
        const MARGIN: usize = 48;
        let [a, b] = self.layers;
        let (width, height) = (a * CELL + MARGIN + 12, b * CELL + MARGIN + 12);
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
             font-size=\"9\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        let escape = |name: &str| name.replace('&', "&amp;").replace('<', "&lt;");
        text += &format!("<text x=\"{MARGIN}\" y=\"14\" font-size=\"11\">{}</text>\n", escape(names[0]));
        text += &format!(
            "<text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"end\" font-size=\"11\">{}</text>\n",
            MARGIN,
            escape(names[1])
        );
        for layer in (0..a).step_by(5) {
            text += &format!("<text x=\"{}\" y=\"{}\">{layer}</text>\n", MARGIN + layer * CELL, MARGIN - 6);
        }
        for layer in (0..b).step_by(5) {
            let y = MARGIN + layer * CELL + CELL - 3;
            text += &format!("<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{layer}</text>\n", MARGIN - 6);
        }
        for layer in 0..b {
            for (source, cosine) in self.row(layer).iter().enumerate() {
                let [red, green, blue] = colour(*cosine);
                let (x, y) = (MARGIN + source * CELL, MARGIN + layer * CELL);
                text += &format!(
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{CELL}\" height=\"{CELL}\" fill=\"#{red:02x}{green:02x}{blue:02x}\">\
                     <title>{layer} from {source}: {cosine:.3}</title></rect>\n"
                );
            }
        }
        text + "</svg>\n"
    }

    /// The heat map as a PNG picture, 12 pixels a layer.
    pub fn png(&self, out: impl Write) -> Result<(), png::EncodingError> {
        const CELL: usize = 12;
        let [a, b] = self.layers;
        let size = |layers: usize| u32::try_from(layers * CELL).unwrap_or(u32::MAX);
        let mut encoder = png::Encoder::new(out, size(a), size(b));
        encoder.set_color(png::ColorType::Rgb);
        let mut pixels = Vec::with_capacity(a * b * CELL * CELL * 3);
        for layer in 0..b {
            let line: Vec<u8> = self.row(layer).iter().flat_map(|cosine| colour(*cosine).repeat(CELL)).collect();
            pixels.extend(line.repeat(CELL));
        }
        encoder.write_header()?.write_image_data(&pixels)
    }
}

/// White for 0 and below, dark blue for 1, grey for NaN.
pub fn colour(cosine: f32) -> [u8; 3] {
    if cosine.is_nan() {
        return [210; 3];
    }
    let mix = |from: f32, to: f32| (from + (to - from) * cosine.clamp(0.0, 1.0)) as u8;
    [mix(255.0, 8.0), mix(255.0, 48.0), mix(255.0, 107.0)]
}

/// Numbers of a matrix, divided by their length, and the length. A zero matrix has length 0.
struct Unit {
    numbers: Vec<f32>,
    length: f32,
}

impl Unit {
    fn of(mut numbers: Vec<f32>) -> Self {
        let length = dot(&numbers, &numbers).sqrt();
        if length > 0.0 {
            numbers.iter_mut().for_each(|number| *number = (f64::from(*number) / length) as f32);
        }
        Self { numbers, length: length as f32 }
    }
}

/// Takes samples, and remembers whether they were less than all.
struct Samples<'a> {
    stop: &'a dyn Fn() -> bool,
    sampled: bool,
}

impl Samples<'_> {
    fn one(&mut self, base: &Base, layer: usize, part: Part) -> Result<Unit> {
        if (self.stop)() {
            return Err(Error::Interrupted);
        }
        let (numbers, whole) = sample(base, layer, part)?;
        self.sampled |= !whole;
        Ok(Unit::of(numbers))
    }

    /// Those of all layers.
    fn all(&mut self, base: &Base, part: Part) -> Result<Vec<Unit>> {
        (0..base.layers()).map(|layer| self.one(base, layer, part)).collect()
    }
}

/// Sums over the parts that could be compared.
struct Row {
    cosines: Vec<f32>,
    ratios: Vec<f32>,
    compared: usize,
}

impl Row {
    fn new(layers: usize) -> Self {
        Self { cosines: vec![0.0; layers], ratios: vec![0.0; layers], compared: 0 }
    }

    fn add(&mut self, unit: &Unit, sources: &[Unit], a: &Base, b: &Base) -> Result<()> {
        if unit.length == 0.0 {
            return Ok(());
        }
        for ((source, cosine), ratio) in sources.iter().zip(&mut self.cosines).zip(&mut self.ratios) {
            if source.numbers.len() != unit.numbers.len() {
                let problem = format!("its layers are of another shape than those of {}", a.checkpoint().path().display());
                return Err(Error::Base { path: b.checkpoint().path().into(), problem });
            }
            *cosine += dot(&source.numbers, &unit.numbers) as f32;
            *ratio += unit.length / source.length;
        }
        self.compared += 1;
        Ok(())
    }

    fn finish(self, cosines: &mut Vec<f32>, ratios: &mut Vec<f32>) {
        // 0 / 0 is NaN.
        let count = self.compared as f32;
        cosines.extend(self.cosines.iter().map(|sum| sum / count));
        ratios.extend(self.ratios.iter().map(|sum| sum / count));
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let pairs = a.chunks(4096).zip(b.chunks(4096));
    pairs.map(|(a, b)| f64::from(short_dot(a, b))).sum()
}

/// In eight sums, which compilers turn into vectors.
fn short_dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// Evenly spaced rows of a layer's matrix, and whether they are all. Of experts' matrices those of all experts, in their order.
fn sample(base: &Base, layer: usize, part: Part) -> Result<(Vec<f32>, bool)> {
    let mut numbers = Vec::new();
    let mut whole = true;
    let mut found = false;
    for (tensor, first, rows) in base.matrices(layer, part) {
        found = true;
        let cols = tensor.shape.last().copied().unwrap_or(1);
        let step = (rows * cols).div_ceil(COMPARED).max(1);
        whole &= step == 1;
        let row_bytes = tensor.dtype.bytes_for(cols).filter(|_| tensor.dtype != DType::F8E4M3);
        let row_bytes = row_bytes.ok_or_else(|| unreadable(tensor))?;
        let bytes = tensor.bytes();
        for row in (0..rows).step_by(step) {
            let at = (first + row) * row_bytes;
            let start = numbers.len();
            numbers.resize(start + cols, 0.0);
            dequantize(tensor.dtype, &bytes[at..at + row_bytes], &mut numbers[start..])?;
        }
        bytes.intact()?;
        bytes.release();
    }
    if !found {
        let problem = format!("layer {layer} has no {}", part.name());
        return Err(Error::Base { path: base.checkpoint().path().into(), problem });
    }
    Ok((numbers, whole))
}

fn unreadable(tensor: &Tensor) -> Error {
    let problem = format!("tensor {} is stored as {}, which can not be compared", tensor.name, tensor.dtype);
    Error::Base { path: Path::new(tensor.path()).into(), problem }
}
