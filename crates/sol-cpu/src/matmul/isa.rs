//! Which instructions the kernels may use.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::OnceLock;

use sol_compute::ComputeError;

/// The environment variable that names the instruction set to use: `portable`, or one that the machine has.
const SETTING: &str = "SOL_ISA";

/// An instruction set that this machine has. There is no other way to make one than to ask the machine, so a kernel that is
/// given one may use its instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

/// From slow to fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// With VNNI; what it has not, it takes from AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Matrix instructions for what has many input rows; what it has not, it takes from AVX-512.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Isa {
    /// All that this machine has, the slowest first. Never empty.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self(Level::Portable)];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            all.push(Self(Level::Avx2));
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Self(Level::Avx512));
                if super::avx512::amx::available() {
                    all.push(Self(Level::Amx));
                }
            }
        }
        all
    }

    /// The fastest that this machine has.
    pub fn best() -> Self {
        Self::available().pop().unwrap_or(Self(Level::Portable))
    }

    /// The one that this process uses: the fastest, or what the environment variable `SOL_ISA` said when it was first asked
    /// for. [`Isa::check`] has an error for what it can not mean.
    pub fn selected() -> Self {
        setting().as_ref().copied().unwrap_or_else(|_| Self::best())
    }

    /// [`Isa::selected`], where `SOL_ISA` makes sense.
    pub fn check() -> Result<Self, ComputeError> {
        setting().as_ref().copied().map_err(|asked| ComputeError::InstructionSet {
            asked: asked.to_string_lossy().into_owned(),
            available: Self::available().iter().map(|isa| isa.name().to_lowercase()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Whether the kernels outside this module may use AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_avx2(self) -> bool {
        self.0 != Level::Portable
    }

    /// Whether the kernels outside this module may use AVX-512 F, BW, DQ and VL too.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_avx512(self) -> bool {
        matches!(self.0, Level::Avx512 | Level::Amx)
    }

    /// What the user should know about this choice.
    pub(crate) fn notice(self) -> Option<String> {
        let why = match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 | Level::Amx => return None,
            Level::Portable if self != Self::best() => format!("{SETTING}={}", self.name()),
            Level::Portable if cfg!(target_arch = "x86_64") => "this CPU has no AVX2 (with FMA and F16C)".into(),
            Level::Portable => format!("there are no kernels for {} yet", std::env::consts::ARCH),
        };
        Some(format!("{why}: portable kernels are used, about {PORTABLE_FACTOR} times slower than those for AVX2"))
    }

    /// For people: "AVX2".
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "AVX512",
            #[cfg(target_arch = "x86_64")]
            Level::Amx => "AMX",
        }
    }

    pub(super) fn level(self) -> Level {
        self.0
    }
}

/// How much slower: a prompt and an answer of the default model, measured.
const PORTABLE_FACTOR: &str = "10 to 20";

/// `SOL_ISA`, read once: kernels of one process must agree. The error is a value that names nothing here.
fn setting() -> &'static Result<Isa, OsString> {
    static SETTING_READ: OnceLock<Result<Isa, OsString>> = OnceLock::new();
    SETTING_READ.get_or_init(|| named(std::env::var_os(SETTING).as_deref()))
}

fn named(value: Option<&OsStr>) -> Result<Isa, OsString> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(Isa::best()) };
    Isa::available().into_iter().find(|isa| value.eq_ignore_ascii_case(isa.name())).ok_or_else(|| value.to_owned())
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_names_what_the_machine_has() {
        assert_eq!(named(None), Ok(Isa::best()));
        assert_eq!(named(Some(OsStr::new(""))), Ok(Isa::best()));
        for isa in Isa::available() {
            assert_eq!(named(Some(OsStr::new(&isa.name().to_lowercase()))), Ok(isa));
            assert_eq!(isa.notice().is_none(), isa != Isa(Level::Portable), "{isa}");
        }
        assert!(named(Some(OsStr::new("avx3"))).is_err());
    }
}
