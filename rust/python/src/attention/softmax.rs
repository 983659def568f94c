//! Softmax attention under its rules: masks and causal order, windows with global tokens, block layouts.

use super::call::{Arrays, Call, MaskData, RuleArrays, RuleData, parse};
use super::operands::{Float, Operand, flat, run};
use numpy::{PyArray1, PyArrayDyn, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use sona_core::attention::heads_vjp::StoredGradients;
use sona_core::attention::local::{local_global, local_global_parted};
use sona_core::attention::parted::Parted;
use sona_core::attention::rules::Causal;
use sona_core::attention::threads;
use sona_core::attention::tile::{BLOCK_Q, Blocks};

/// Threads that attention may use.
#[pyfunction]
pub(super) fn attention_threads() -> usize {
    threads::get()
}

/// Sets the threads that attention may use.
#[pyfunction]
pub(super) fn set_attention_threads(n: usize) {
    threads::set(n);
}

/// Attention of contiguous arrays `(…, n, d)`, `(…, m, d)`, `(…, m, dv)` of one precision. `maps`: for each head the stored array
/// of q, k and v that it reads; None: in order. Returns flat `out`, and `lse` and `weights` where asked for.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "operands, layout, rule, what to return")]
pub(super) fn attend<'py>(
    py: Python<'py>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    maps: Option<&Bound<'py, PyTuple>>,
    scale: f64,
    rule: &Bound<'py, PyTuple>,
    blocks: (usize, usize),
    want_lse: bool,
    want_weights: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    if q.cast::<PyArrayDyn<f32>>().is_ok() {
        forward::<f32>(py, [q, k, v], maps, scale, rule, blocks, want_lse, want_weights)
    } else {
        forward::<f64>(py, [q, k, v], maps, scale, rule, blocks, want_lse, want_weights)
    }
}

#[allow(clippy::too_many_arguments, reason = "the arguments of `attend`")]
fn forward<'py, T: Float>(
    py: Python<'py>,
    qkv: [&Bound<'py, PyAny>; 3],
    maps: Option<&Bound<'py, PyTuple>>,
    scale: f64,
    rule: &Bound<'py, PyTuple>,
    blocks: (usize, usize),
    want_lse: bool,
    want_weights: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    let arrays = Arrays::<T>::new(qkv)?;
    let detach = arrays.detach(maps);
    let mut call = arrays.call(maps, scale, false)?;
    let rule_arrays = RuleArrays::new(rule)?;
    let data = parse(rule, &rule_arrays, call.size[0], detach)?;
    let blocks = Blocks {
        q: blocks.0,
        k: blocks.1,
    };
    // Cutting the operands up is all the copying they need.
    let parted = data.part(&call.heads(), blocks);
    if detach {
        call.let_go(parted.whole() && !want_weights);
    }
    let (out, lse, weights) = run(py, detach, || {
        compute(&call, &parted, &data, blocks, want_lse, want_weights)
    });
    PyTuple::new(
        py,
        [
            flat(py, out),
            if want_lse {
                flat(py, lse)
            } else {
                py.None().into_bound(py)
            },
            if want_weights {
                flat(py, weights)
            } else {
                py.None().into_bound(py)
            },
        ],
    )
}

/// (out, lse, weights); the last two are empty where not asked for.
type Computed<T> = (Vec<T>, Vec<T>, Vec<T>);

fn compute<T: Float>(
    call: &Call<'_, T>,
    parted: &Parted<T>,
    data: &RuleData<'_, T>,
    blocks: Blocks,
    want_lse: bool,
    want_weights: bool,
) -> Computed<T> {
    let heads = call.heads();
    let (n, m) = (heads.n, heads.m);
    let mut out = vec![T::ZERO; heads.len() * n * heads.dv];
    let mut lse = vec![
        T::ZERO;
        if want_lse || want_weights {
            heads.len() * n
        } else {
            0
        }
    ];
    let lse_out = (!lse.is_empty()).then_some(&mut lse[..]);
    match data {
        RuleData::Dense { .. } => {
            let rule = |b| data.dense(b, n, m);
            heads.attend_parted(parted, rule, blocks, &mut out, lse_out);
        }
        RuleData::Local(local) => local_global_parted(&heads, parted, local, blocks, &mut out, lse_out),
        RuleData::Blocks { .. } => {
            let rule = |b| data.blocks(b, n);
            heads.attend_parted(parted, rule, blocks, &mut out, lse_out);
        }
    }
    let mut weights = vec![T::ZERO; if want_weights { heads.len() * n * m } else { 0 }];
    if want_weights {
        heads.weights(|b| data.dense(b, n, m), &lse, &mut weights);
    }
    (out, lse, weights)
}

/// The common case in one step: no mask, one array of queries, keys and values per head. None where the operands need checks
/// or conversions; [`attend`] then makes them or says what is wrong.
#[pyfunction]
#[pyo3(signature = (q, k, v, scale, causal, blocks))]
pub(super) fn attend_plain<'py>(
    py: Python<'py>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    scale: Option<f64>,
    causal: bool,
    blocks: (usize, usize),
) -> PyResult<Option<Bound<'py, PyAny>>> {
    match Arrays::<f32>::new([q, k, v]) {
        Ok(arrays) => plain(py, &arrays, scale, causal, blocks),
        Err(_) => match Arrays::<f64>::new([q, k, v]) {
            Ok(arrays) => plain(py, &arrays, scale, causal, blocks),
            Err(_) => Ok(None),
        },
    }
}

fn plain<'py, T: Float>(
    py: Python<'py>,
    arrays: &Arrays<'py, T>,
    scale: Option<f64>,
    causal: bool,
    blocks: (usize, usize),
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let [q, k, v] = [&arrays.q, &arrays.k, &arrays.v];
    let ([.., _, d], [.., m, dk], [.., mv, _]) = (q.shape(), k.shape(), v.shape()) else {
        return Ok(None);
    };
    let lead = |x: &Operand<'_, T>| x.shape()[..x.shape().len() - 2].to_vec();
    let fits = d == dk && m == mv && lead(q) == lead(k) && lead(q) == lead(v);
    let scale = scale.unwrap_or(1.0 / (*d.max(&1) as f64).sqrt());
    if !(fits && scale.is_finite() && [q, k, v].iter().all(|x| x.is_plain())) {
        return Ok(None);
    }
    let detach = arrays.detach(None);
    let mut call = arrays.call(None, scale, false)?;
    let data = RuleData::Dense {
        causal: if causal { Causal::TopLeft } else { Causal::No },
        mask: MaskData::None,
        of: Vec::new(),
        strides: [0, 0],
        len: 0,
    };
    let blocks = Blocks {
        q: blocks.0,
        k: blocks.1,
    };
    let mut shape = q.shape().to_vec();
    shape.pop();
    shape.push(v.axis(0));
    let heads = call.heads();
    if !detach && heads.are_few(data.chunk(blocks)) {
        let mut out = vec![T::ZERO; heads.len() * heads.n * heads.dv];
        heads.attend_few(|b| data.dense(b, heads.n, heads.m), blocks, &mut out);
        return Ok(Some(PyArray1::from_vec(py, out).reshape(shape)?.into_any()));
    }
    let parted = data.part(&heads, blocks);
    if detach {
        call.let_go(parted.whole());
    }
    let (out, ..) = run(py, detach, || {
        compute(&call, &parted, &data, blocks, false, false)
    });
    Ok(Some(PyArray1::from_vec(py, out).reshape(shape)?.into_any()))
}

/// Gradients `(dq, dk, dv, dmask or None)`, flat, in the shapes of the stored arrays, for ∂L/∂out = `dout`.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "operands, layout, rule, gradient")]
pub(super) fn attend_vjp<'py>(
    py: Python<'py>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    maps: Option<&Bound<'py, PyTuple>>,
    scale: f64,
    rule: &Bound<'py, PyTuple>,
    dout: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyTuple>> {
    if q.cast::<PyArrayDyn<f32>>().is_ok() {
        backward::<f32>(py, [q, k, v], maps, scale, rule, dout)
    } else {
        backward::<f64>(py, [q, k, v], maps, scale, rule, dout)
    }
}

fn backward<'py, T: Float>(
    py: Python<'py>,
    qkv: [&Bound<'py, PyAny>; 3],
    maps: Option<&Bound<'py, PyTuple>>,
    scale: f64,
    rule: &Bound<'py, PyTuple>,
    dout: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyTuple>> {
    let arrays = Arrays::<T>::new(qkv)?;
    let call = arrays.call(maps, scale, true)?;
    let rule_arrays = RuleArrays::new(rule)?;
    let data = parse(rule, &rule_arrays, call.size[0], true)?;
    let dout = Operand::<T>::new(dout)?.take(true)?.into_owned();
    let grads = py.detach(|| {
        let heads = call.heads();
        let (n, m) = (heads.n, heads.m);
        let mut out = vec![T::ZERO; heads.len() * n * heads.dv];
        let mut lse = vec![T::ZERO; heads.len() * n];
        let mut grads = StoredGradients {
            q: vec![T::ZERO; call.q.len()],
            k: vec![T::ZERO; call.k.len()],
            v: vec![T::ZERO; call.v.len()],
            mask: Vec::new(),
            mask_len: 0,
        };
        if let RuleData::Dense {
            mask: MaskData::Float(x),
            len,
            ..
        } = &data
        {
            grads.mask = vec![T::ZERO; x.len()];
            grads.mask_len = *len;
        }
        let blocks = Blocks::default();
        let none = |_| (0, [0, 0]);
        match &data {
            RuleData::Dense { .. } => {
                let rule = |b| data.dense(b, n, m);
                heads.attend(rule, blocks, BLOCK_Q, heads.cost(), &mut out, Some(&mut lse));
                heads.vjp(rule, |b| data.mask_of(b), BLOCK_Q, &out, &lse, &dout, &mut grads);
            }
            RuleData::Local(local) => {
                local_global(&heads, local, blocks, &mut out, Some(&mut lse));
                heads.vjp(|_| local.clone(), none, BLOCK_Q, &out, &lse, &dout, &mut grads);
            }
            RuleData::Blocks { block, .. } => {
                let rule = |b| data.blocks(b, n);
                heads.attend(rule, blocks, *block, heads.cost(), &mut out, Some(&mut lse));
                heads.vjp(rule, none, *block, &out, &lse, &dout, &mut grads);
            }
        }
        grads
    });
    let mask = if grads.mask_len > 0 {
        flat(py, grads.mask)
    } else {
        py.None().into_bound(py)
    };
    PyTuple::new(
        py,
        [flat(py, grads.q), flat(py, grads.k), flat(py, grads.v), mask],
    )
}
