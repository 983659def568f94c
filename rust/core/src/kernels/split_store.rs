//! Many operands in parts, in one piece of memory that can be used again.

use super::pages::prefer_large_pages;
use super::real::Real;
use super::split::{DEPTH, LINES, Line, SIDE, Source};
pub use super::split_products::{LeftRef, RightRef};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// From here on memory comes in large pages.
const LARGE: usize = 4 << 20;

/// What becomes of rows of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A left operand.
    Left,
    /// The columns of a right one.
    Turned,
    /// The rows of a right one.
    Upright,
}

impl Cut {
    /// Lines of the tiles of `rows` rows of `width` values.
    fn lines(self, rows: usize, width: usize) -> usize {
        LINES
            * match self {
                Self::Left | Self::Turned => rows.div_ceil(SIDE) * width.div_ceil(DEPTH),
                Self::Upright => rows.div_ceil(DEPTH) * width.div_ceil(SIDE),
            }
    }
}

/// Rows to cut up.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a, T> {
    /// What to make of them.
    pub cut: Cut,
    /// Rows of `width` values.
    pub x: &'a [T],
    /// Values of a row.
    pub width: usize,
    /// Factor of a left operand; the others have none.
    pub scale: T,
}

/// A [`Job`] and where its tiles go.
#[derive(Debug)]
pub struct Task<'a, 'x, T> {
    job: Job<'x, T>,
    to: &'a mut [MaybeUninit<Line>],
    tame: &'a mut bool,
}

/// What is where.
#[derive(Clone, Copy, Debug)]
struct Made {
    cut: Cut,
    at: usize,
    rows: usize,
    width: usize,
}

/// Operands in parts. What cannot be split is not there.
#[derive(Debug)]
pub struct Store<T> {
    lines: Vec<MaybeUninit<Line>>,
    made: Vec<Made>,
    /// Of each job: it was done, and its numbers could be split.
    tame: Vec<bool>,
    of: PhantomData<T>,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self {
            lines: Vec::new(),
            made: Vec::new(),
            tame: Vec::new(),
            of: PhantomData,
        }
    }
}

impl<T: Real> Store<T> {
    /// Bytes of memory held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    /// Forgets what is there and does other jobs: `all` has to call [`Task::run`] for each task, on any thread.
    pub fn fill<'x>(&mut self, jobs: &[Job<'x, T>], all: impl FnOnce(Vec<Task<'_, 'x, T>>)) {
        self.made.clear();
        let mut len = 0;
        for job in jobs {
            let rows = job.x.len().checked_div(job.width).unwrap_or(0);
            assert_eq!(job.x.len(), rows * job.width, "store: expected (rows, width)");
            self.made.push(Made {
                cut: job.cut,
                at: len,
                rows,
                width: job.width,
            });
            len += job.cut.lines(rows, job.width);
        }
        self.tame.clear();
        self.tame.resize(jobs.len(), false);
        self.reserve(len);
        let mut rest = &mut self.lines[..];
        let mut tasks = Vec::with_capacity(jobs.len());
        for ((job, made), tame) in jobs.iter().zip(&self.made).zip(&mut self.tame) {
            let (to, after) = rest.split_at_mut(job.cut.lines(made.rows, made.width));
            rest = after;
            tasks.push(Task { job: *job, to, tame });
        }
        all(tasks);
    }

    fn reserve(&mut self, len: usize) {
        if len <= self.lines.len() {
            return;
        }
        // What is there is not needed: nothing to copy.
        self.lines = Vec::with_capacity(len);
        let bytes = len * size_of::<Line>();
        if bytes >= LARGE {
            prefer_large_pages(self.lines.spare_capacity_mut());
        }
        // SAFETY: the capacity is `len`, and such lines may be anything.
        unsafe { self.lines.set_len(len) };
    }

    /// Every number of every job could be split.
    #[must_use]
    pub fn tame(&self) -> bool {
        self.tame.iter().all(|x| *x)
    }

    /// The lines of some jobs, which follow one another; None unless each was done.
    fn lines(&self, jobs: &Range<usize>) -> Option<&[Line]> {
        if !self.tame.get(jobs.clone())?.iter().all(|x| *x) {
            return None;
        }
        let (Some(first), Some(last)) = (self.made.get(jobs.start), self.made[..jobs.end].last()) else {
            return Some(&[]);
        };
        let end = last.at + last.cut.lines(last.rows, last.width);
        let lines = &self.lines[first.at..end.max(first.at)];
        // SAFETY: `tame` is set once a task has written all of its lines, and these belong to such tasks.
        Some(unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len()) })
    }

    /// The left operand that job `job` made; None where it cannot be split.
    #[must_use]
    pub fn left(&self, job: usize) -> Option<LeftRef<'_, T>> {
        let made = self.made.get(job).filter(|x| x.cut == Cut::Left)?;
        Some(LeftRef {
            lines: self.lines(&(job..job + 1))?,
            rows: made.rows.div_ceil(SIDE),
            groups: made.width.div_ceil(DEPTH),
            of: PhantomData,
        })
    }

    /// The right operand of which `jobs` made stretches, one after the other, all but the last of whole groups; None where it
    /// cannot be split.
    #[must_use]
    pub fn right(&self, jobs: Range<usize>) -> Option<RightRef<'_, T>> {
        let made = self.made.get(jobs.clone())?;
        let first = made.first()?;
        let (last, before) = made.split_last()?;
        assert!(
            made.iter().all(|x| x.cut == first.cut && x.width == first.width)
                && before.iter().all(|x| x.rows.is_multiple_of(DEPTH))
                && first.cut != Cut::Left,
            "store: expected stretches of one right operand"
        );
        let rows = before.iter().map(|x| x.rows).sum::<usize>() + last.rows;
        let (turned, wide, deep) = (
            first.cut == Cut::Turned,
            first.width.div_ceil(SIDE),
            first.width.div_ceil(DEPTH),
        );
        Some(RightRef {
            lines: self.lines(&jobs)?,
            columns: if turned { rows.div_ceil(SIDE) } else { wide },
            groups: if turned { deep } else { rows.div_ceil(DEPTH) },
            column: if turned { deep * LINES } else { LINES },
            group: if turned { LINES } else { wide * LINES },
            of: PhantomData,
        })
    }
}

impl<T: Real> Task<'_, '_, T> {
    /// Does the job.
    pub fn run(self) {
        let Some(kernels) = T::split_kernels() else {
            return;
        };
        let Job { cut, x, width, scale } = self.job;
        let from = Source {
            x: x.as_ptr(),
            rows: x.len().checked_div(width).unwrap_or(0),
            columns: width,
            stride: width,
            scale,
        };
        let kernel = match cut {
            Cut::Left => kernels.left,
            Cut::Turned => kernels.turned,
            Cut::Upright => kernels.upright,
        };
        // SAFETY: there is room for all tiles of x, and the kernel is of this processor. It writes every line.
        *self.tame = unsafe { kernel(from, self.to.as_mut_ptr().cast()) };
    }
}
