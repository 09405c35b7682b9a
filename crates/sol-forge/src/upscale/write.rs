//! Writing the result: streamed, whole or not at all.
//!
//! A directory is built beside its place under a hidden name and renamed when it is whole. What a killed run leaves there, its
//! finished shards, the same order uses again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use sol_weights::gguf::{self, Existing, TensorInfo};
use sol_weights::{Bytes, Checkpoint, DType, Format, HfMetadata, Metadata, free_space, safetensors};

use super::base::{Base, format_of};
use super::directory::{self, Building};
use super::tensors::{Content, Target, becomes_solar, produce, targets};
use super::{Plan, card, config};
use crate::{Error, Result};

/// What is to be written.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Where the layers come from.
    pub base: &'a Base,
    /// What the base is called in the card.
    pub base_name: &'a str,
    /// Which layers.
    pub plan: &'a Plan,
    /// Store the weights as F32, F16 or BF16; `None`: as they are.
    pub float: Option<DType>,
    /// Begin another safetensors file where one would be larger.
    pub shard_bytes: u64,
}

/// A file of the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Report {
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Tensors.
    pub tensors: usize,
    /// Those of them whose bytes are the base's.
    pub copied: usize,
    /// Files with tensors.
    pub files: usize,
    /// Of these, those that an earlier run had finished.
    pub reused: usize,
    /// The base's files.
    pub sources: Vec<Source>,
    /// Of each tensor its BLAKE3: SHA-256 would take longer than writing does.
    hashes: Vec<(String, String)>,
}

/// What can be written: the order with all its tensors.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    order: Order<'a>,
    targets: Vec<Target>,
}

impl<'a> Order<'a> {
    /// Whether the result is a Solar, whatever the base is: plans with skip connections make one.
    pub fn becomes_solar(&self) -> bool {
        becomes_solar(self.plan)
    }

    /// Works out every tensor. Fails for bases that the plan can not be carried out on: of another depth, with skip
    /// connections already, of a form that Solar does not have ([`Error::Base`]); with quantised weights that would have to be
    /// multiplied ([`Error::Quantized`]).
    pub fn job(self) -> Result<Job<'a>> {
        let targets = targets(self.base, self.plan, self.float)?;
        Ok(Job { order: self, targets })
    }
}

impl Job<'_> {
    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.targets.iter().map(Target::byte_len).sum()
    }

    /// Numbers of all tensors of the base, and of the result.
    pub fn parameters(&self) -> [u64; 2] {
        let count = |shape: &[usize]| shape.iter().map(|&n| n as u64).product::<u64>();
        let before = self.order.base.checkpoint().tensors().map(|tensor| count(&tensor.shape)).sum();
        [before, self.targets.iter().map(|target| count(&target.shape)).sum()]
    }

    /// The architecture of the result.
    pub fn architecture(&self) -> &'static str {
        if becomes_solar(self.order.plan) { "solar" } else { self.order.base.spec().architecture }
    }

    /// Writes the result to `out`: a GGUF file, or a directory of safetensors, in the format of the base. `progress` is called
    /// with the bytes of tensors written so far; when `stop` says so, the error is [`Error::Interrupted`].
    pub fn write(
        &self,
        out: &Path,
        existing: Existing,
        stop: &(dyn Fn() -> bool + Sync),
        progress: &mut dyn FnMut(u64),
    ) -> Result<Report> {
        crate::spare(self.order.base.source().files(), out)?;
        match (self.order.base.checkpoint().metadata(), format_of(out)) {
            (Metadata::Gguf(meta), Format::Gguf) => self.write_gguf(meta, out, existing, stop, progress),
            (Metadata::Hf(hf), Format::Safetensors) => self.write_hf(hf, out, existing, stop, progress),
            (Metadata::Gguf(_), _) => Err(Error::OtherFormat { out: out.into(), base: "a GGUF file", needs: "end in .gguf" }),
            (Metadata::Hf(_), _) => {
                Err(Error::OtherFormat { out: out.into(), base: "a directory of safetensors", needs: "be a directory" })
            }
        }
    }

    fn write_gguf(
        &self,
        meta: &gguf::Metadata,
        out: &Path,
        existing: Existing,
        stop: &(dyn Fn() -> bool + Sync),
        progress: &mut dyn FnMut(u64),
    ) -> Result<Report> {
        let Order { base, plan, float, .. } = self.order;
        let keys = config::gguf(base, meta, plan, float);
        let infos: Vec<TensorInfo> = self
            .targets
            .iter()
            .map(|target| TensorInfo { name: target.name.clone(), dtype: target.dtype, shape: target.shape.clone() })
            .collect();
        let mut writer = gguf::Writer::create(out, &keys, &infos, existing)?;
        let (hashes, sources) = with_hashed_sources(base.source(), stop, || {
            let mut flow = Flow { base, stop, progress, written: 0, known: HashMap::new() };
            flow.all(&self.targets.iter().collect::<Vec<_>>(), &mut |bytes| Ok(writer.write(bytes)?))
        })?;
        base.source().unchanged()?;
        writer.finish()?;
        self.finished(out, hashes, sources, 1, 0)
    }

    fn write_hf(
        &self,
        hf: &HfMetadata,
        out: &Path,
        existing: Existing,
        stop: &(dyn Fn() -> bool + Sync),
        progress: &mut dyn FnMut(u64),
    ) -> Result<Report> {
        let Order { base, base_name, plan, float, shard_bytes } = self.order;
        for place in directory::beside(out) {
            crate::spare(base.source().files(), &place)?;
        }
        let shards = shards(&self.targets, shard_bytes);
        let mut building = Building::begin(out, existing, &self.fingerprint())?;
        let mut names = Vec::with_capacity(shards.len());
        for at in 1..=shards.len() {
            names.push(match shards.len() {
                1 => "model.safetensors".to_owned(),
                all => format!("model-{at:05}-of-{all:05}.safetensors"),
            });
        }
        let need: u64 = (shards.iter().zip(&names).filter(|(_, name)| !building.path(name).exists()))
            .flat_map(|(shard, _)| shard.iter().map(|target| target.byte_len()))
            .sum();
        if let Some(free) = free_space(building.dir()).filter(|free| *free < need) {
            return Err(sol_weights::Error::NoSpace { path: out.into(), need, free }.into());
        }

        let mut reused = 0;
        let (hashes, sources) = with_hashed_sources(base.source(), stop, || {
            let mut flow = Flow { base, stop, progress, written: 0, known: HashMap::new() };
            let mut hashes = Vec::new();
            // A shard goes to the disk while the next is made.
            thread::scope(|scope| {
                let mut last: Option<Last<'_, '_>> = None;
                for (shard, name) in shards.iter().zip(&names) {
                    if let Some(known) = building.finished(name) {
                        reused += 1;
                        hashes.extend(known);
                        flow.written += shard.iter().map(|target| target.byte_len()).sum::<u64>();
                        continue;
                    }
                    let header: Vec<_> =
                        shard.iter().map(|target| (target.name.as_str(), target.dtype, target.shape.as_slice())).collect();
                    let mut writer = safetensors::Writer::create(&building.path(name), &header)?;
                    let of_shard = flow.all(shard, &mut |bytes| Ok(writer.write(bytes)?));
                    // Also where this one failed: the next run can use it.
                    settle(last.take(), &mut building)?;
                    let of_shard = of_shard?;
                    base.source().unchanged()?;
                    hashes.extend(of_shard.iter().cloned());
                    last = Some((scope.spawn(move || writer.finish()), name, of_shard));
                }
                settle(last, &mut building)
            })?;
            Ok(hashes)
        })?;
        base.source().unchanged()?;

        if let [_, _, ..] = shards[..] {
            let map: serde_json::Map<String, Json> = (shards.iter().zip(&names))
                .flat_map(|(shard, name)| shard.iter().map(|target| (target.name.clone(), Json::from(name.as_str()))))
                .collect();
            let index = json!({ "metadata": { "total_size": self.tensor_bytes() }, "weight_map": map });
            building.put("model.safetensors.index.json", &pretty(&index))?;
        }
        building.put("config.json", &pretty(&config::hf(base, &hf.config, plan, float)))?;
        building.carry(&hf.dir, becomes_solar(plan))?;
        building.put("README.md", &card::write(base, base_name, plan, &sources, self.parameters()))?;
        building.put("upscale.json", &pretty(&self.manifest(&hashes, &sources)))?;
        building.in_place()?;
        self.finished(out, hashes, sources, shards.len(), reused)
    }

    /// The same for the same order on the same base.
    fn fingerprint(&self) -> String {
        let mut hash = blake3::Hasher::new();
        for target in &self.targets {
            hash.update(format!("{target:?}").as_bytes());
        }
        for file in self.order.base.source().files() {
            let stamp = fs::metadata(file).ok().map(|meta| (meta.len(), meta.modified().ok()));
            hash.update(format!("{} {stamp:?}", file.display()).as_bytes());
        }
        hash.update(&self.order.shard_bytes.to_le_bytes());
        hash.finalize().to_string()
    }

    /// `upscale.json`: every tensor with what it was made of, for who wants to check.
    fn manifest(&self, hashes: &[(String, String)], sources: &[Source]) -> Json {
        let Order { base, base_name, plan, .. } = self.order;
        let tensors: serde_json::Map<String, Json> = (self.targets.iter().zip(hashes))
            .map(|(target, (name, blake3))| {
                let source = match &target.content {
                    Content::Rows { source, .. } => Json::from(source.as_str()),
                    Content::Exactly(_) => Json::Null,
                };
                (name.clone(), json!({ "source": source, "copied": target.is_copy(base), "blake3": blake3 }))
            })
            .collect();
        let files: Vec<Json> =
            sources.iter().map(|source| json!({ "name": source.name, "bytes": source.bytes, "sha256": source.sha256 })).collect();
        json!({ "base": base_name, "plan": super::json(plan), "sources": files, "tensors": tensors })
    }

    /// Opens what was written and looks whether it is what was meant.
    fn finished(
        &self,
        out: &Path,
        hashes: Vec<(String, String)>,
        sources: Vec<Source>,
        files: usize,
        reused: usize,
    ) -> Result<Report> {
        let wrong = |problem: String| Error::Check { path: out.into(), problem };
        let result = Base::open(out)?;
        for target in &self.targets {
            let found = result.checkpoint().tensor(&target.name);
            if found.is_none_or(|found| (found.dtype, &found.shape) != (target.dtype, &target.shape)) {
                return Err(wrong(format!("tensor {} is not there as {} {:?}", target.name, target.dtype, target.shape)));
            }
        }
        let (spec, plan) = (result.spec(), self.order.plan);
        let links = spec.skip_links().len();
        if (spec.layers.len(), links) != (plan.layers().len(), plan.skips().len()) {
            return Err(wrong(format!("it reads as {} layers with {links} skip connections", spec.layers.len())));
        }
        Ok(Report {
            tensor_bytes: self.tensor_bytes(),
            tensors: self.targets.len(),
            copied: self.targets.iter().filter(|target| target.is_copy(self.order.base)).count(),
            files,
            reused,
            sources,
            hashes,
        })
    }
}

impl Report {
    /// Reads every tensor of the written checkpoint again and compares its hash with that of what was written. `progress` is
    /// called with the bytes read so far.
    pub fn check(&self, out: &Path, stop: &(dyn Fn() -> bool + Sync), progress: &mut dyn FnMut(u64)) -> Result<()> {
        const CHUNK: usize = 8 << 20;
        let checkpoint = Checkpoint::open(out)?;
        let mut read = 0;
        for (name, expected) in &self.hashes {
            let missing = || Error::Check { path: out.into(), problem: format!("tensor {name} is gone") };
            let bytes = checkpoint.tensor(name).ok_or_else(missing)?.bytes();
            let mut hash = blake3::Hasher::new();
            for start in (0..bytes.len()).step_by(CHUNK) {
                if stop() {
                    return Err(Error::Interrupted);
                }
                let part = bytes.slice(start..bytes.len().min(start + CHUNK));
                hash.update(&part[..]);
                part.release();
                read += part.len() as u64;
                progress(read);
            }
            bytes.intact()?;
            if hash.finalize().to_string() != *expected {
                let problem = format!("tensor {name} is not what was written: its BLAKE3 differs; the disk may be broken");
                return Err(Error::Check { path: out.into(), problem });
            }
        }
        Ok(())
    }
}

/// A shard that is being synchronised: its name and the hashes of its tensors.
type Last<'scope, 'a> = (thread::ScopedJoinHandle<'scope, sol_weights::Result<()>>, &'a str, Vec<(String, String)>);

/// Waits until a shard is on the disk, and notes that it is.
fn settle(last: Option<Last<'_, '_>>, building: &mut Building) -> Result<()> {
    let Some((finish, name, hashes)) = last else { return Ok(()) };
    let ended = || Error::Io { path: building.path(name), cause: io::Error::other("the thread that synchronises ended") };
    finish.join().map_err(|_| ended())??;
    building.finish(name, &hashes)
}

/// Tensors on their way from the base to a file.
struct Flow<'a> {
    base: &'a Base,
    stop: &'a (dyn Fn() -> bool + Sync),
    progress: &'a mut dyn FnMut(u64),
    written: u64,
    /// Hashes by what was hashed: a layer that comes several times is hashed once.
    known: HashMap<String, String>,
}

impl Flow<'_> {
    /// Makes tensors one after the other and gives their bytes to `put`, while another thread hashes them. Returns names and
    /// hashes.
    fn all(&mut self, targets: &[&Target], put: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Vec<(String, String)>> {
        let keys: Vec<String> = targets.iter().map(|target| target.what()).collect();
        let mut new = HashSet::new();
        let is_new: Vec<bool> = keys.iter().map(|key| !self.known.contains_key(key) && new.insert(key)).collect();
        let hashes = thread::scope(|scope| {
            let (sender, receiver) = sync_channel::<(usize, Bytes)>(4);
            let hasher = scope.spawn(move || hash_all(targets.len(), &receiver));
            for (at, target) in targets.iter().enumerate() {
                produce(self.base, target, &mut |bytes| {
                    if (self.stop)() {
                        return Err(Error::Interrupted);
                    }
                    bytes.fetch();
                    // Of a file that became shorter the system can not even take bytes to write: say that.
                    put(&bytes).map_err(|error| self.base.source().unchanged().err().map_or(error, Error::from))?;
                    bytes.intact()?;
                    self.written += bytes.len() as u64;
                    (self.progress)(self.written);
                    match is_new[at] {
                        // It ends only after the sender does.
                        true => _ = sender.send((at, bytes)),
                        false => bytes.release(),
                    }
                    Ok(())
                })?;
            }
            drop(sender);
            hasher.join().map_err(|_| Error::Io {
                path: self.base.source().path().into(),
                cause: io::Error::other("the thread that hashes ended"),
            })
        })?;
        let new = keys.iter().zip(hashes).zip(&is_new).filter(|(_, is_new)| **is_new);
        self.known.extend(new.map(|((key, hash), _)| (key.clone(), hash)));
        Ok(targets.iter().zip(&keys).map(|(target, key)| (target.name.clone(), self.known[key].clone())).collect())
    }
}

/// The hashes of so many tensors whose bytes come in order.
fn hash_all(count: usize, bytes: &Receiver<(usize, Bytes)>) -> Vec<String> {
    /// Pieces that stay mapped behind the one that is hashed. The system may have mapped 2 MB as one page, which goes as a whole:
    /// what is being written must not lie in it.
    const BEHIND: usize = 4;
    let mut hashes = vec![blake3::Hasher::new(); count];
    let mut behind = VecDeque::with_capacity(BEHIND + 1);
    for (at, bytes) in bytes {
        hashes[at].update(&bytes[..]);
        behind.push_back(bytes);
        if behind.len() > BEHIND {
            // The last to see it.
            behind.pop_front().iter().for_each(Bytes::release);
        }
    }
    behind.iter().for_each(Bytes::release);
    hashes.into_iter().map(|hash| hash.finalize().to_string()).collect()
}

/// Does `work` while another thread hashes the base's files.
fn with_hashed_sources<T>(
    source: &Checkpoint,
    stop: &(dyn Fn() -> bool + Sync),
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<Source>)> {
    let given_up = AtomicBool::new(false);
    let stop = || given_up.load(Ordering::Relaxed) || stop();
    thread::scope(|scope| {
        let hash = || source.files().iter().map(|file| hash_file(source, file, &stop)).collect::<Result<Vec<Source>>>();
        let hasher = scope.spawn(hash);
        let done = work();
        given_up.store(done.is_err(), Ordering::Relaxed);
        let sources = hasher.join().unwrap_or_else(|_| {
            Err(Error::Io { path: source.path().into(), cause: io::Error::other("the thread that hashes ended") })
        });
        // The first error counts, not that the other thread was told to give up.
        done.and_then(|done| Ok((done, sources?)))
    })
}

fn hash_file(source: &Checkpoint, path: &Path, stop: &dyn Fn() -> bool) -> Result<Source> {
    let failed = |cause| Error::Io { path: path.into(), cause };
    let mut file = source.reopen(path)?;
    let mut buffer = vec![0; 1 << 20];
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) if stop() => return Err(Error::Interrupted),
            Ok(n) => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Source { name, bytes, sha256: hex(&hash.finalize()) })
}

/// Tensors in files of at most so many bytes, a larger tensor in one of its own.
fn shards(targets: &[Target], most: u64) -> Vec<Vec<&Target>> {
    let mut shards: Vec<Vec<&Target>> = Vec::new();
    let mut room = 0;
    for target in targets {
        let bytes = target.byte_len();
        match shards.last_mut() {
            Some(last) if bytes <= room => last.push(target),
            _ => {
                shards.push(vec![target]);
                room = most;
            }
        }
        room = room.saturating_sub(bytes);
    }
    shards
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pretty(json: &Json) -> String {
    format!("{json:#}\n")
}
