//! Writes small checkpoints for this crate's own tests.

use std::path::Path;

/// A tensor to be written as F32.
pub(crate) struct FixtureTensor<'a> {
    pub(crate) name: &'a str,
    pub(crate) shape: &'a [usize],
    pub(crate) values: Vec<f32>,
}

/// A tensor whose element `i` is `i`.
pub(crate) fn counting<'a>(name: &'a str, shape: &'a [usize]) -> FixtureTensor<'a> {
    let values = (0..shape.iter().product::<usize>()).map(|i| i as f32).collect();
    FixtureTensor { name, shape, values }
}

/// Writes a sound safetensors file.
pub(crate) fn write(path: &Path, tensors: &[FixtureTensor<'_>]) {
    let mut data = Vec::new();
    let entries = tensors.iter().map(|FixtureTensor { name, shape, values }| {
        let begin = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        format!(r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{begin},{}]}}"#, data.len())
    });
    let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&length, header.as_bytes(), &data].concat()).expect("the checkpoint is written");
}
