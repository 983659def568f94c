//! The variances that make the evidence most likely (type-II maximum likelihood; Rasmussen & Williams 2006, section 5.4).

use super::kernel::Hyper;
use super::posterior::Posterior;

/// Cells that take part: the most recent.
const CELLS: usize = 160;
/// Fewer say nothing about variances.
const LEAST: usize = 12;
/// Factors tried on each parameter in turn.
const STEPS: [f64; 4] = [0.25, 0.5, 2.0, 4.0];
/// A parameter stays within this factor of its first value: few runs should not make the prior certain.
const RANGE: f64 = 64.0;
const ROUNDS: usize = 2;
/// Cells of a setting below which its own factor stays 1.
const LEAST_OF_SETTING: usize = 4;

type Field = fn(&mut Hyper) -> &mut f64;
const FIELDS: [Field; 6] = [
    |h| &mut h.width,
    |h| &mut h.base,
    |h| &mut h.plan,
    |h| &mut h.setting,
    |h| &mut h.effect,
    |h| &mut h.own,
];

/// ln of the density of the evidence, and of a wide log-normal prior on each parameter (it keeps them where the evidence is
/// flat).
fn likelihood(p: &Posterior, cosines: &[f64], cells: &[usize], mut hyper: Hyper, scales: &[f64]) -> f64 {
    let factor = p.factor_of(cosines, cells, hyper, scales);
    let w = factor.solve(&p.deviations(cells));
    let fit = -0.5 * (w.iter().map(|v| v * v).sum::<f64>() + factor.log_determinant());
    let mut first = Hyper::default();
    let prior: f64 = FIELDS
        .iter()
        .map(|f| -(*f(&mut hyper) / *f(&mut first)).ln().powi(2) / 8.0)
        .sum();
    let prior: f64 = prior - scales.iter().map(|c| c.ln().powi(2) / 8.0).sum::<f64>();
    fit + prior
}

/// Coordinate search from the present values; true if they changed. O(cells³) for each value tried.
pub(super) fn fit(p: &mut Posterior) -> bool {
    let cells = p.recent(CELLS);
    if cells.len() < LEAST {
        return false;
    }
    let cosines = p.similarities(&cells);
    let before = (p.hyper, p.scales.clone());
    let of_setting = p.settings_of(&cells);
    if let Some((last, _)) = of_setting.last_key_value() {
        let len = p.scales.len().max(*last as usize + 1);
        p.scales.resize(len, 1.0);
    }
    let mut best = likelihood(p, &cosines, &cells, p.hyper, &p.scales);
    for _ in 0..ROUNDS {
        for field in FIELDS {
            let centre = p.hyper;
            for step in STEPS {
                let mut tried = centre;
                *field(&mut tried) *= step;
                let mut first = Hyper::default();
                let away = *field(&mut tried) / *field(&mut first);
                if !(1.0 / RANGE..=RANGE).contains(&away) {
                    continue;
                }
                let score = likelihood(p, &cosines, &cells, tried, &p.scales);
                if score > best {
                    best = score;
                    p.hyper = tried;
                }
            }
        }
        for (setting, _) in of_setting.iter().filter(|(_, n)| **n >= LEAST_OF_SETTING) {
            let at = *setting as usize;
            let centre = p.scales[at];
            for step in STEPS {
                let mut tried = p.scales.clone();
                tried[at] = centre * step;
                if !(1.0 / RANGE..=RANGE).contains(&tried[at]) {
                    continue;
                }
                let score = likelihood(p, &cosines, &cells, p.hyper, &tried);
                if score > best {
                    best = score;
                    p.scales = tried;
                }
            }
        }
    }
    p.refactor();
    (p.hyper, p.scales.clone()) != before
}
