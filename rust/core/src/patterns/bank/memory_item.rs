//! What a pattern says in words (Ouyang et al. 2025, "ReasoningBank": title, description, content; failures included).

use super::pattern::{Memo, Pattern, Verdict};
use std::fmt::Write;

/// A pattern as advice for a request.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryItem {
    /// The pattern's id.
    pub pattern: u64,
    /// Title, description, content.
    pub memo: Memo,
    /// Whether to follow or to avoid.
    pub verdict: Verdict,
    /// The pattern's centroid.
    pub embedding: Vec<f32>,
    /// Cosine with the request.
    pub similarity: f32,
}

/// The distiller without a language model: states counts, mean qualities and actions.
#[must_use]
pub fn template(p: &Pattern) -> Memo {
    let head = match p.verdict {
        Verdict::Success => "Works",
        Verdict::Failure => "Avoid",
        Verdict::Uncertain => "Mixed results",
    };
    let title = match p.actions.first() {
        Some(a) => format!("{head}: {}", a.action),
        None => format!("{head} (pattern {})", p.id),
    };
    let description = format!(
        "{} similar requests, mean quality {:.2}, at least {:.2} with 95 % confidence.",
        p.cluster_size,
        p.avg_quality,
        p.quality_lower_bound(1.959_964),
    );
    let mut content = String::new();
    for (verdict, word) in [
        (Verdict::Success, "Do"),
        (Verdict::Uncertain, "Unclear"),
        (Verdict::Failure, "Avoid"),
    ] {
        let of = p
            .actions
            .iter()
            .filter(|a| Verdict::of(a.mean_quality) == verdict);
        for a in of {
            // Writing to a string cannot fail.
            let _ = writeln!(
                content,
                "{word}: {} (quality {:.2}, {} times)",
                a.action, a.mean_quality, a.count
            );
        }
    }
    if content.is_empty() {
        content = match p.verdict {
            Verdict::Success => "Requests like this went well; proceed as usual.".into(),
            Verdict::Failure => "Requests like this failed; take another way.".into(),
            Verdict::Uncertain => "Requests like this went both ways; check the result.".into(),
        };
    }
    Memo {
        title,
        description,
        content: content.trim_end().to_owned(),
    }
}
