//! How much memory this process may take: what the machine has, what its control groups allow, what `ulimit` says.
//!
//! Weights are pages of files, which the system drops and reads again as it likes; all else stays. So a model fits, or its
//! weights do not stay in memory (it runs, as slowly as the disk), or it does not fit at all. All numbers come from `/proc` and
//! the control groups' files; where there are none (systems other than Linux), nothing is known and nothing refused.

use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};

use sol_compute::KvType;
use sol_model::DecoderSpec;
use sol_model::memory::{self, Memory};
use sol_weights::Checkpoint;

/// One bound on the memory of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Who sets it, for people.
    pub by: String,
    /// Bytes in all.
    pub limit: u64,
    /// Bytes still to be had. What the system keeps of files to be fast is among them: it gives that up when asked.
    pub free: u64,
    /// Whether weights count too, as pages of files do; else they are mapped already or of no concern.
    pub(crate) pages: bool,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} are free ({})", Size(self.free), Size(self.limit), self.by)
    }
}

/// All bounds on the memory of this process, the tightest first.
#[derive(Clone, Debug, Default)]
pub struct Limits(pub(crate) Vec<Bound>);

/// What running a model takes.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// For the whole context.
    pub memory: Memory,
    /// Bytes of the weights that loading copies; the others stay in their files.
    pub copied: u64,
    /// Bytes of a token's keys and values.
    pub token: u64,
}

impl Need {
    /// For `sequences` sequences of `context` tokens.
    pub fn new(checkpoint: &Checkpoint, spec: &DecoderSpec, context: usize, sequences: usize, kv_type: KvType) -> Self {
        Self {
            memory: memory::needed(spec, memory::loaded_bytes(checkpoint), context, sequences, kv_type),
            copied: memory::copied_bytes(checkpoint),
            token: memory::kv_bytes_per_token(spec, kv_type).saturating_mul(sequences as u64),
        }
    }

    /// What can not be dropped and read again.
    pub fn kept(&self) -> u64 {
        self.rest().saturating_add(self.memory.kv)
    }

    /// That without keys and values, which come as the context fills.
    pub fn rest(&self) -> u64 {
        [self.memory.work, self.memory.program].into_iter().fold(self.copied, u64::saturating_add)
    }

    /// Weights that stay in their files.
    pub fn mapped(&self) -> u64 {
        self.memory.weights.saturating_sub(self.copied)
    }
}

/// Whether a model fits, and if not, what is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit<'a> {
    /// All of it.
    Whole,
    /// It runs, but weights do not stay in memory.
    Rereads(&'a Bound),
    /// Not even what must stay.
    No(&'a Bound),
}

impl Limits {
    /// As they are now.
    pub fn now() -> Self {
        Self::read(Path::new("/"))
    }

    fn read(root: &Path) -> Self {
        let file = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let mut bounds = Vec::from_iter(machine(&file("proc/meminfo")));
        bounds.extend(ulimits(&file("proc/self/limits"), &file("proc/self/status")));
        let machine = bounds.first().map_or(u64::MAX, |bound| bound.limit);
        for hierarchy in Hierarchy::all(&file("proc/self/mountinfo"), &file("proc/self/cgroup")) {
            // What is no less than the machine's memory is no limit; version 1 says "none" by a huge number.
            bounds.extend(hierarchy.bounds(root).into_iter().filter(|bound| bound.limit < machine));
        }
        bounds.sort_by_key(|bound| bound.free);
        Self(bounds)
    }

    /// The bound that leaves least.
    pub fn tightest(&self) -> Option<&Bound> {
        self.0.first()
    }

    /// Whether a model fits.
    pub fn fit(&self, need: &Need) -> Fit<'_> {
        let (kept, all) = (need.kept(), need.kept().saturating_add(need.mapped()));
        if let Some(bound) = self.0.iter().find(|bound| kept > bound.free) {
            return Fit::No(bound);
        }
        self.0.iter().find(|bound| bound.pages && all > bound.free).map_or(Fit::Whole, Fit::Rereads)
    }

    /// The longest context that can be kept.
    pub fn longest_context(&self, need: &Need) -> usize {
        self.tokens(need, |bound| bound.free.saturating_sub(need.rest()))
    }

    /// The longest context that leaves something for others, and room for the weights to stay in memory.
    pub fn comfortable_context(&self, need: &Need) -> usize {
        self.tokens(need, |bound| {
            let weights = if bound.pages { need.mapped() } else { 0 };
            (bound.free - bound.free / 8).saturating_sub(need.rest().saturating_add(weights))
        })
    }

    /// Tokens for whose keys and values there is room under every bound, in steps of [`STEP`].
    fn tokens(&self, need: &Need, room: impl Fn(&Bound) -> u64) -> usize {
        let tokens = self.0.iter().map(room).min().unwrap_or(u64::MAX) / need.token.max(1);
        usize::try_from(tokens).unwrap_or(usize::MAX) / STEP * STEP
    }
}

/// Tokens; whole blocks of the cache.
const STEP: usize = 256;

/// The number behind a name in a file of lines `NAME NUMBER` or `NAME: NUMBER kB`, in bytes.
fn entry(text: &str, name: &str) -> Option<u64> {
    let mut words = text
        .lines()
        .map(str::split_whitespace)
        .find_map(|mut words| (words.next()?.trim_end_matches(':') == name).then_some(words))?;
    let number: u64 = words.next()?.parse().ok()?;
    Some(if words.next() == Some("kB") { number.saturating_mul(1024) } else { number })
}

fn machine(meminfo: &str) -> Option<Bound> {
    let (limit, free) = (entry(meminfo, "MemTotal")?, entry(meminfo, "MemAvailable")?);
    Some(Bound { by: "memory of this machine".into(), limit, free, pages: true })
}

/// What stacks take of addresses, though hardly of memory: 256 MiB of it are for the thread that renders templates.
const STACKS: u64 = 320 << 20;

/// Limits of addresses (files are mapped by the time they are asked for) and of memory that can be written.
fn ulimits(limits: &str, status: &str) -> Vec<Bound> {
    let bound = |(line, used, by): (&str, &str, &str)| {
        let soft = limits.lines().find_map(|l| l.strip_prefix(line)?.split_whitespace().next()?.parse::<u64>().ok())?;
        let free = soft.saturating_sub(entry(status, used)?.saturating_add(STACKS));
        Some(Bound { by: by.into(), limit: soft, free, pages: false })
    };
    [("Max address space", "VmSize", "ulimit -v"), ("Max data size", "VmData", "ulimit -d")]
        .into_iter()
        .filter_map(bound)
        .collect()
}

/// The names of the files of a control group.
struct Version {
    limits: &'static [&'static str],
    used: &'static str,
    /// Entries of `memory.stat`: what the group has of files.
    files: [&'static str; 2],
}

const V1: Version = Version {
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    files: ["total_active_file", "total_inactive_file"],
};

/// Above `memory.high` a group is slowed down until it has given memory back, so it is a limit as well.
const V2: Version =
    Version { limits: &["memory.max", "memory.high"], used: "memory.current", files: ["active_file", "inactive_file"] };

/// A mounted hierarchy of control groups that can limit memory, and where in it this process is.
struct Hierarchy {
    version: &'static Version,
    mount: PathBuf,
    group: PathBuf,
}

impl Hierarchy {
    /// From `/proc/self/mountinfo` (`ID PARENT DEVICE ROOT MOUNT OPTIONS .. - TYPE SOURCE OPTIONS`) and `/proc/self/cgroup`
    /// (`ID:CONTROLLERS:PATH`).
    fn all(mountinfo: &str, cgroup: &str) -> Vec<Self> {
        let has_memory = |list: &str| list.split(',').any(|word| word == "memory");
        let hierarchy = |line: &str| {
            let (mount, system) = line.split_once(" - ")?;
            let (mut mount, mut system) = (mount.split(' ').skip(3), system.split(' '));
            let (root, mount) = (mount.next()?, mount.next()?);
            let version = match (system.next()?, system.nth(1)) {
                ("cgroup2", _) => &V2,
                ("cgroup", Some(options)) if has_memory(options) => &V1,
                _ => return None,
            };
            let path = cgroup.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                let ours = if version.used == V2.used { controllers.is_empty() } else { has_memory(controllers) };
                ours.then_some(path)
            })?;
            // A container sees its own group as the root, or the path on the host; outside its mount, only the mount is known.
            let group = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
            let inside = group.components().all(|part| matches!(part, Component::Normal(_)));
            let group = if inside { group } else { Path::new("") };
            Some(Self { version, mount: mount.into(), group: group.into() })
        };
        mountinfo.lines().filter_map(hierarchy).collect()
    }

    /// Limits of the group and of all above it.
    fn bounds(&self, root: &Path) -> Vec<Bound> {
        let mount = root.join(self.mount.strip_prefix("/").unwrap_or(&self.mount));
        let bound = |group: &Path| {
            let file = |name: &str| fs::read_to_string(mount.join(group).join(name)).ok();
            let number = |name: &str| file(name)?.trim().parse::<u64>().ok();
            let limit = self.version.limits.iter().filter_map(|name| number(name)).min()?;
            let stat = file("memory.stat").unwrap_or_default();
            let files: u64 = self.version.files.iter().filter_map(|name| entry(&stat, name)).sum();
            let used = number(self.version.used)?.saturating_sub(files);
            let by = format!("control group /{}", group.display());
            Some(Bound { by, limit, free: limit.saturating_sub(used), pages: true })
        };
        self.group.ancestors().filter_map(bound).collect()
    }
}

/// Bytes for people, in powers of ten as models are sold: "98.4 MB".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
        let (mut value, mut unit) = (self.0 as f64, 0);
        while value >= 999.95 && unit + 1 < units.len() {
            value /= 1000.0;
            unit += 1;
        }
        if unit == 0 { write!(f, "{} B", self.0) } else { write!(f, "{value:.1} {}", units[unit]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A machine of 16 GiB with 12 free, and these files beside.
    fn read(files: &[(&str, &str)]) -> Limits {
        let root = tempfile::tempdir().unwrap();
        let meminfo = ("proc/meminfo", "MemTotal:  16777216 kB\nMemFree:  100 kB\nMemAvailable: 12582912 kB\n");
        for (path, text) in [meminfo].iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Limits::read(root.path())
    }

    /// Name, limit and room of the tightest bound, in MiB.
    fn tightest(limits: &Limits) -> (&str, u64, u64) {
        let bound = limits.tightest().unwrap();
        (bound.by.as_str(), bound.limit / MIB, bound.free / MIB)
    }

    const V2_MOUNT: (&str, &str) =
        ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
    const V1_MOUNTS: (&str, &str) = (
        "proc/self/mountinfo",
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
         32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
         35 31 0:32 /docker/1f /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
    );

    #[test]
    fn without_groups_the_machine_is_the_limit_and_without_proc_there_is_none() {
        assert_eq!(tightest(&read(&[])), ("memory of this machine", 16384, 12288));
        let nowhere = Limits::read(Path::new("/nonexistent"));
        assert_eq!(nowhere.tightest(), None);
        let need = Need { memory: Memory { weights: 1 << 60, kv: 1 << 60, work: 1, program: 1 }, copied: 0, token: 1 };
        assert_eq!(nowhere.fit(&need), Fit::Whole);
        assert!(nowhere.comfortable_context(&need) > 1 << 60);
    }

    #[test]
    fn a_group_of_version_2_and_those_above_it() {
        let own = [
            V2_MOUNT,
            ("proc/self/cgroup", "0::/a.slice/b.scope\n"),
            ("sys/fs/cgroup/a.slice/b.scope/memory.max", "max\n"),
            ("sys/fs/cgroup/a.slice/b.scope/memory.current", "1073741824\n"),
            ("sys/fs/cgroup/a.slice/memory.max", "4294967296\n"),
            ("sys/fs/cgroup/a.slice/memory.current", "3221225472\n"),
            // 1.5 GiB of the 3 in use are files.
            ("sys/fs/cgroup/a.slice/memory.stat", "anon 5\nfile 7\ninactive_file 1073741824\nactive_file 536870912\n"),
        ];
        assert_eq!(tightest(&read(&own)), ("control group /a.slice", 4096, 4096 - 1536));
        let high = [&own[..], &[("sys/fs/cgroup/a.slice/b.scope/memory.high", "2147483648\n")]].concat();
        assert_eq!(tightest(&read(&high)), ("control group /a.slice/b.scope", 2048, 1024));
        // As a container with a namespace of its own sees itself, and as one sees a process that is outside.
        for path in ["0::/\n", "0::/../../other\n"] {
            let inside = [
                V2_MOUNT,
                ("proc/self/cgroup", path),
                ("sys/fs/cgroup/memory.max", "1073741824"),
                ("sys/fs/cgroup/memory.current", "0"),
            ];
            assert_eq!(tightest(&read(&inside)), ("control group /", 1024, 1024));
        }
    }

    #[test]
    fn a_group_of_version_1_below_the_root_of_its_mount() {
        let files = [
            V1_MOUNTS,
            ("proc/self/cgroup", "5:cpu:/\n4:memory:/docker/1f/job\n0::/\n"),
            ("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "9000\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "2147483648\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 524288000\ntotal_active_file 0\n"),
        ];
        assert_eq!(tightest(&read(&files)), ("control group /", 2048, 500));
        assert_eq!(tightest(&read(&files[..4])), ("memory of this machine", 16384, 12288), "a huge number is no limit");
    }

    #[test]
    fn limits_of_the_shell() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax data size  unlimited  unlimited  bytes\n\
                      Max address space         1073741824           unlimited            bytes\n";
        let status = ("proc/self/status", "VmPeak:\t  900000 kB\nVmSize:\t  262144 kB\nVmData:\t    1024 kB\n");
        assert_eq!(tightest(&read(&[("proc/self/limits", limits), status])), ("ulimit -v", 1024, 768 - 320));
        let limits = limits.replace("Max data size  unlimited", "Max data size  337641472");
        assert_eq!(tightest(&read(&[("proc/self/limits", &limits), status])), ("ulimit -d", 322, 1));
    }

    #[test]
    fn weights_may_be_read_again_and_the_rest_must_stay() {
        let limits = read(&[
            V2_MOUNT,
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "1073741824"),
            ("sys/fs/cgroup/memory.current", "0"),
        ]);
        let need = |weights, copied, kv| Need {
            memory: Memory { weights: weights * MIB, kv: kv * MIB, work: 10 * MIB, program: 14 * MIB },
            copied: copied * MIB,
            token: MIB / 64,
        };
        let group = limits.tightest().unwrap();
        assert_eq!(limits.fit(&need(500, 0, 500)), Fit::Whole);
        assert_eq!(limits.fit(&need(501, 0, 500)), Fit::Rereads(group));
        assert_eq!(limits.fit(&need(u64::MAX / MIB, 0, 1000)), Fit::Rereads(group));
        assert_eq!(limits.fit(&need(0, 0, 1001)), Fit::No(group));
        assert_eq!(limits.fit(&need(501, 501, 500)), Fit::No(group));
        // A step takes 4 MiB.
        assert_eq!(limits.longest_context(&need(700, 0, 0)), 250 * STEP);
        assert_eq!(limits.longest_context(&need(700, 700, 0)), 75 * STEP);
        assert_eq!(limits.longest_context(&need(1001, 1001, 0)), 0);
        // An eighth stays free.
        assert_eq!(limits.comfortable_context(&need(700, 0, 0)), 43 * STEP);
        assert_eq!(limits.comfortable_context(&need(1001, 0, 0)), 0);
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(
            [0, 999, 1000, 98_400_000, u64::MAX].map(|n| Size(n).to_string()),
            ["0 B", "999 B", "1.0 kB", "98.4 MB", "18.4 EB"]
        );
        let bound = &read(&[]).0[0];
        assert_eq!(bound.to_string(), "12.9 GB of 17.2 GB are free (memory of this machine)");
    }
}
