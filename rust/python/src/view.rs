//! Float32 arrays read and written in place, through numpy's C API, for calls of a hundred nanoseconds.
//!
//! rust-numpy's safe borrows keep a process-wide table; here the type, the flags and the shape are read straight from the
//! array object. As with numpy's own functions, a caller that writes to an array from another thread during the call
//! gets a result made of old and new values. A view must not outlive the attachment it was made under.

use crate::arrays::asarray;
use crate::errors::to_py;
use numpy::npyffi::{_PyArray_GET_ITEM_DATA, _PyDataType_GET_ITEM_DATA, PyArray_CheckExact};
use numpy::npyffi::{NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, NPY_TYPES};
use numpy::{PyArray1, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use sona_core::Error;

/// Shape and address of a C-contiguous, aligned, native float32 array of one or two axes.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    data: *mut f32,
    /// Rows; 1 for a vector.
    pub n: usize,
    /// Length of a row.
    pub d: usize,
    /// True for two axes.
    pub batched: bool,
    writeable: bool,
    life: std::marker::PhantomData<&'a ()>,
}

impl<'a> View<'a> {
    /// The view of `x` if it is such an array already.
    #[inline]
    fn direct(x: &'a Bound<'_, PyAny>) -> Option<Self> {
        const WANTED: i32 = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED;
        let (py, ptr) = (x.py(), x.as_ptr());
        // SAFETY: `x` is a live object; its fields are read only after the exact type check, while attached. A numpy
        // array's dimensions have `nd` entries, and its descriptor begins with the public fields.
        unsafe {
            if PyArray_CheckExact(py, ptr) == 0 {
                return None;
            }
            let a = &*_PyArray_GET_ITEM_DATA(ptr.cast());
            let descr = &*_PyDataType_GET_ITEM_DATA(a.descr);
            let float32 = descr.type_num == NPY_TYPES::NPY_FLOAT as i32 && descr.byteorder as u8 == b'=';
            if !float32 || a.flags & WANTED != WANTED || !(1..=2).contains(&a.nd) {
                return None;
            }
            let (n, d) = if a.nd == 1 {
                (1, *a.dimensions)
            } else {
                (*a.dimensions, *a.dimensions.add(1))
            };
            Some(Self {
                data: a.data.cast(),
                n: n as usize,
                d: d as usize,
                batched: a.nd == 2,
                writeable: a.flags & NPY_ARRAY_WRITEABLE != 0,
                life: std::marker::PhantomData,
            })
        }
    }

    /// Number of values.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.n * self.d
    }

    /// The values, row by row.
    #[inline]
    pub(crate) fn as_slice(&self) -> &'a [f32] {
        // SAFETY: the array is alive and attached for 'a, contiguous and aligned, and holds n·d values. Numpy never gives
        // a null pointer, not even for an empty array.
        unsafe { std::slice::from_raw_parts(self.data, self.len()) }
    }

    fn overlaps(&self, other: &View<'_>) -> bool {
        let (a, b) = (self.data as usize, other.data as usize);
        let size = size_of::<f32>();
        a < b + other.len() * size && b < a + self.len() * size
    }
}

/// Keeps a converted argument alive as long as its view.
pub(crate) type Slot<'py> = Option<Bound<'py, PyArrayDyn<f32>>>;

/// `(d,)` or `(n, d)`: the caller's own memory where possible, else a converted copy that `slot` keeps.
#[inline]
pub(crate) fn view<'a, 'py>(
    name: &'static str,
    x: &'a Bound<'py, PyAny>,
    slot: &'a mut Slot<'py>,
) -> PyResult<View<'a>> {
    match View::direct(x) {
        Some(v) => Ok(v),
        None => convert(name, x, slot),
    }
}

#[cold]
fn convert<'a, 'py>(
    name: &'static str,
    x: &Bound<'py, PyAny>,
    slot: &'a mut Slot<'py>,
) -> PyResult<View<'a>> {
    let mut a = asarray(name, x)?;
    let shape = a.shape().to_vec();
    if !matches!(shape.len(), 1 | 2) {
        let got = format!("{shape:?}");
        return Err(to_py(Error::shape(name, "(d,) or (n, d)", got)));
    }
    if View::direct(a.as_any()).is_none() {
        // A subclass of ndarray: copied to a plain one.
        a = PyArray1::from_vec(x.py(), a.to_vec()?).reshape(shape)?;
    }
    View::direct(slot.insert(a).as_any()).ok_or_else(|| {
        to_py(Error::shape(
            name,
            "an array that converts to float32",
            "one that does not",
        ))
    })
}

/// Exactly `(d,)`, like [`view`].
#[inline]
pub(crate) fn vector_view<'a, 'py>(
    name: &'static str,
    x: &'a Bound<'py, PyAny>,
    slot: &'a mut Slot<'py>,
) -> PyResult<&'a [f32]> {
    let v = view(name, x, slot)?;
    if v.batched {
        return Err(to_py(Error::shape(name, "(d,)", format!("({}, {})", v.n, v.d))));
    }
    Ok(v.as_slice())
}

/// Runs `f(x, out)` on the caller's `out`, or on a new array of `x`'s shape, and returns that array.
#[inline]
pub(crate) fn map_into<'py>(
    py: Python<'py>,
    x: View<'_>,
    out: Option<&Bound<'py, PyAny>>,
    f: impl FnOnce(&[f32], &mut [f32]) -> sona_core::Result<()>,
) -> PyResult<Bound<'py, PyAny>> {
    let array = match out {
        Some(out) => out.clone(),
        None => new_like(py, &x)?,
    };
    let target = match View::direct(&array) {
        Some(t) if t.writeable && t.n == x.n && t.d == x.d && t.batched == x.batched => t,
        other => return Err(bad_out(&x, other)),
    };
    let copy: Vec<f32>;
    let source = if target.overlaps(&x) {
        copy = x.as_slice().to_vec();
        &copy[..]
    } else {
        x.as_slice()
    };
    // SAFETY: `array` is alive, writeable, contiguous and aligned, holds n·d values, and does not overlap `source`.
    let target = unsafe { std::slice::from_raw_parts_mut(target.data, target.len()) };
    f(source, target).map_err(to_py)?;
    Ok(array)
}

/// A new array of `x`'s shape; its values are zero (numpy's calloc makes that free for large ones).
fn new_like<'py>(py: Python<'py>, x: &View<'_>) -> PyResult<Bound<'py, PyAny>> {
    Ok(if x.batched {
        numpy::PyArray2::<f32>::zeros(py, [x.n, x.d], false).into_any()
    } else {
        PyArray1::<f32>::zeros(py, [x.d], false).into_any()
    })
}

#[cold]
fn bad_out(x: &View<'_>, got: Option<View<'_>>) -> PyErr {
    let want = if x.batched {
        format!(
            "a writeable C-contiguous float32 array of shape ({}, {})",
            x.n, x.d
        )
    } else {
        format!("a writeable C-contiguous float32 array of shape ({},)", x.d)
    };
    let got = match got {
        None => "something else".to_owned(),
        Some(v) if !v.writeable => "a read-only array".to_owned(),
        Some(v) if v.batched => format!("shape ({}, {})", v.n, v.d),
        Some(v) => format!("shape ({},)", v.d),
    };
    to_py(Error::shape("out", want, got))
}
