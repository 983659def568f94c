//! One plain Rust body, compiled for each tier. Without fused multiply-adds every tier gives the same bits.

/// A body and its instance for each tier.
macro_rules! tiers {
    ($(#[$doc:meta])* $name:ident = $body:ident($($arg:ident: $ty:ty),*) -> $out:ty) => {
        $(#[$doc])*
        pub fn $name($($arg: $ty),*) -> $out {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
            fn avx512($($arg: $ty),*) -> $out {
                $body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $ty),*) -> $out {
                $body($($arg),*)
            }
            match $crate::kernels::tier() {
                // SAFETY: `tier` names only what this processor has.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::Tier::Avx512 | $crate::kernels::Tier::Amx => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::Tier::Avx2 => unsafe { avx2($($arg),*) },
                _ => $body($($arg),*),
            }
        }
    };
}

pub(super) use tiers;
