//! Order statistics of measurements.

/// The value below which a share `quantile` of the values lies (nearest rank); NaN for none.
pub(crate) fn quantile(values: &[f64], quantile: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// The median.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(median(&values), 3.0);
        assert_eq!([0.0, 0.2, 0.21, 0.99, 1.0].map(|q| quantile(&values, q)), [1.0, 1.0, 2.0, 5.0, 5.0]);
        assert!(median(&[]).is_nan());
    }
}
