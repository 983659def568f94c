//! The attention over a plan's operators, by name.

use crate::attention::dag::{Dag, branches, critical, cut, lorentz, topological};

/// Which mechanism weighs the operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// By distance from the sources.
    Topological,
    /// By share of the costly paths.
    CriticalPath,
    /// By work that can run beside other work.
    ParallelBranch,
    /// By rows across the narrowest place.
    MincutGated,
    /// By closeness in the hierarchy.
    HierarchicalLorentz,
}

/// Largest plan for mechanisms of quadratic cost; beyond it the topological one stands in.
const MOST: usize = 512;

impl Mechanism {
    /// All of them; the first is the one without evidence.
    pub const ALL: [Self; 5] = [
        Self::Topological,
        Self::CriticalPath,
        Self::ParallelBranch,
        Self::MincutGated,
        Self::HierarchicalLorentz,
    ];

    /// The name in the registry of attention mechanisms.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Topological => "dag_topological",
            Self::CriticalPath => "dag_critical_path",
            Self::ParallelBranch => "dag_parallel_branch",
            Self::MincutGated => "dag_mincut_gated",
            Self::HierarchicalLorentz => "dag_hierarchical_lorentz",
        }
    }

    /// One weight per node, sum 1.
    #[must_use]
    pub fn scores(self, dag: &Dag) -> Vec<f64> {
        let plain = || topological::scores(dag, 0.9, topological::Side::Sources).0;
        match self {
            Self::Topological => plain(),
            Self::CriticalPath => critical::analyse(dag, 0.02, None).scores,
            _ if dag.len() > MOST => plain(),
            Self::ParallelBranch => branches::analyse(dag).scores,
            Self::MincutGated => cut::scores(dag, &cut::minimum(dag, None, None), 0.01),
            Self::HierarchicalLorentz => {
                let space = lorentz::Space {
                    curvature: 1.0,
                    temperature: 1.0,
                    step: 3.5,
                };
                lorentz::all(dag, space).0
            }
        }
    }
}
