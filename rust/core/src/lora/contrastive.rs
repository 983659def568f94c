//! In-batch InfoNCE over rows, the training loss of the slow adapter.

use crate::kernels;
use crate::trajectory::log_softmax_parts;

/// Unit rows and their former norms; zero rows stay zero.
fn units(rows: &[f32], d: usize) -> (Vec<f32>, Vec<f32>) {
    let mut out = rows.to_vec();
    let norms = out.chunks_exact_mut(d).map(kernels::normalize).collect();
    (out, norms)
}

/// Mean over rows of the cross-entropy that row i of `outputs` picks row i of `positives` among all of them and the
/// `negatives`, scored by cosine over `temperature`; and its gradient with respect to the outputs (van den Oord et al.
/// 2018, eq. 4).
pub(super) fn in_batch(
    outputs: &[f32],
    positives: &[f32],
    negatives: &[f32],
    d: usize,
    temperature: f64,
) -> (f64, Vec<f32>) {
    let (u, norms) = units(outputs, d);
    let (mut keys, _) = units(positives, d);
    keys.extend(units(negatives, d).0);
    let n = norms.len();
    let mut grad = vec![0.0f32; outputs.len()];
    let mut scores = vec![0.0f32; keys.len() / d];
    let mut loss = 0.0;
    for (i, (u, g)) in u.chunks_exact(d).zip(grad.chunks_exact_mut(d)).enumerate() {
        if norms[i] == 0.0 {
            // A zero output has no direction: every cosine is 0 and so is the gradient.
            loss += (scores.len() as f64).ln() / n as f64;
            continue;
        }
        kernels::gemv(&keys, d, u, &mut scores);
        let logits: Vec<f64> = scores.iter().map(|s| f64::from(*s) / temperature).collect();
        let (lse, p) = log_softmax_parts(&logits);
        loss += (lse - logits[i]) / n as f64;
        for (j, (key, p)) in keys.chunks_exact(d).zip(&p).enumerate() {
            let w = (p - f64::from(u8::from(i == j))) / (temperature * n as f64);
            kernels::axpy(w as f32, key, g);
        }
        let along = kernels::dot(g, u);
        kernels::axpy(-along, u, g);
        kernels::scale(1.0 / norms[i], g);
    }
    (loss, grad)
}
