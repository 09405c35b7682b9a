//! The models of a server: which there are, which of them are in memory, and which of those makes room for another.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use sol_engine::{Constrainer, Error, LanguageModel, Message, Sampling, Serving, ServingOptions, Text};
use tokio::sync::{OwnedMutexGuard, Semaphore};

use crate::error::{Refused, Result};
use crate::metrics::{self, Metrics, Row};
use crate::tools::{Tools, flattened};
use crate::{App, Entered, guided};

/// Opens a model.
type Load = Box<dyn Fn() -> sol_engine::Result<LanguageModel> + Send + Sync>;

/// A model to be served.
pub struct Source {
    names: Vec<String>,
    given: Option<LanguageModel>,
    load: Option<Load>,
}

impl Source {
    /// One that is in memory, and stays there.
    pub fn ready(names: Vec<String>, model: LanguageModel) -> Self {
        Self { names, given: Some(model), load: None }
    }

    /// One that is loaded when somebody asks for it, and again after it made room for others.
    pub fn on_demand(names: Vec<String>, load: impl Fn() -> sol_engine::Result<LanguageModel> + Send + Sync + 'static) -> Self {
        Self { names, given: None, load: Some(Box::new(load)) }
    }
}

/// A model in memory, with what handlers need of it.
pub(crate) struct Model {
    pub(crate) serving: Serving,
    pub(crate) text: Text,
    pub(crate) sampling: Sampling,
    pub(crate) vocab: usize,
    /// Tokens that end a turn.
    pub(crate) ends: Vec<u32>,
    pub(crate) constrainer: OnceLock<Constrainer>,
    /// Taken by those who read a grammar.
    pub(crate) readers: Arc<Semaphore>,
    pub(crate) context: usize,
    pub(crate) sequences: usize,
    /// Tokens that its cache has room for, and the bytes that they take.
    pub(crate) kv: (usize, u64),
    pub(crate) architecture: &'static str,
    pub(crate) metrics: Arc<Metrics>,
}

impl Model {
    fn new(mut model: LanguageModel, queue: usize, metrics: Arc<Metrics>) -> sol_engine::Result<Self> {
        Ok(Self {
            text: model.text().clone(),
            sampling: model.default_sampling().clone(),
            vocab: model.spec().vocab,
            ends: model.end_of_turn().to_vec(),
            constrainer: OnceLock::new(),
            readers: Arc::new(Semaphore::new(guided::READERS)),
            context: model.context(),
            sequences: model.engine().sequences(),
            architecture: model.spec().architecture,
            kv: model.kv_room(),
            serving: Serving::start(model, ServingOptions { queue })?,
            metrics,
        })
    }

    /// The tokens of a conversation in which the model is shown these tools.
    pub(crate) fn chat_prompt(&self, mut messages: Vec<Message>, tools: Option<&Tools>) -> Result<Vec<u32>> {
        let mut extra = serde_json::Map::new();
        let (template, _) = self.text.chat_template()?;
        if !template.supports_tools() {
            messages = flattened(messages);
        }
        match tools {
            Some(tools) if template.supports_tools() => drop(extra.insert("tools".into(), tools.json())),
            Some(tools) => messages = tools.told(template, messages),
            None => {}
        }
        let more = messages.iter().flat_map(|message| message.more.values()).chain(extra.values()).map(ToString::to_string);
        let whole: Vec<String> = messages.iter().map(|message| message.content.clone()).chain(more).collect();
        self.text.check_length(&whole.join("\n"))?;
        Ok(self.text.chat_prompt_with(&messages, extra)?)
    }

    /// Work of milliseconds and more, aside, so that it holds up no stream.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let model = Arc::clone(self);
        aside(move || work(&model)).await?
    }
}

/// Runs on a thread that no stream waits for.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let failed = |_| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be read");
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

/// What all who wait for a model wait for. Where none does any more, it ends.
type Loading = BoxFuture<'static, Result<Arc<Model>>>;

/// A model that a request uses, which is counted in.
#[derive(Clone)]
pub(crate) struct Held {
    model: Arc<Model>,
    _entered: Arc<Entered>,
}

impl Deref for Held {
    type Target = Arc<Model>;

    fn deref(&self) -> &Arc<Model> {
        &self.model
    }
}

/// A model of the server, in memory or not.
struct Entry {
    names: Vec<String>,
    load: Option<Load>,
    model: Mutex<Option<Arc<Model>>>,
    /// When it was asked for last, in requests.
    used: AtomicU64,
    metrics: Arc<Metrics>,
    /// While somebody waits for it.
    loading: Mutex<Option<WeakShared<Loading>>>,
    /// It has its place, and is being opened.
    opening: AtomicBool,
    /// Others wait for its place: who asks for it now, waits behind them.
    going: AtomicBool,
    /// When it could not be loaded, and why.
    failed: Mutex<Option<(Instant, Refused)>>,
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    fn model(&self) -> MutexGuard<'_, Option<Arc<Model>>> {
        locked(&self.model)
    }

    /// It, but for one whose engine has ended: that is loaded again.
    fn live(&self) -> Option<Arc<Model>> {
        let mut model = self.model();
        if self.load.is_some() {
            model.take_if(|model| model.serving.ended());
        }
        model.clone()
    }

    /// Why it can not be loaded, where that was tried just now.
    fn check_failed(&self) -> Result<()> {
        match &*locked(&self.failed) {
            Some((when, refused)) if when.elapsed() < RETRY => Err(refused.clone()),
            _ => Ok(()),
        }
    }

    /// Takes it out of memory, unless somebody uses it or it can not come back.
    fn take_idle(&self) -> Option<Arc<Model>> {
        let mut model = self.model();
        let idle = self.load.is_some() && model.as_ref().is_some_and(|model| Arc::strong_count(model) == 1);
        if idle { model.take() } else { None }
    }
}

/// All of them.
pub(crate) struct Models {
    entries: Vec<Arc<Entry>>,
    /// Most of them in memory.
    keep: usize,
    queue: usize,
    clock: AtomicU64,
    /// One is loaded at a time, so that each sees what memory the others left.
    loading: Arc<tokio::sync::Mutex<()>>,
}

/// For so long one that could not be loaded is not tried again: others would make room for it each time.
const RETRY: Duration = Duration::from_secs(10);
/// How often those who wait for an idle model look for one.
const LOOK: Duration = Duration::from_millis(20);

impl Models {
    pub(crate) fn new(sources: Vec<Source>, keep: usize, queue: usize) -> sol_engine::Result<Self> {
        let entry = |source: Source| {
            let metrics = Arc::new(Metrics::default());
            let given = source.given.map(|model| Model::new(model, queue, Arc::clone(&metrics)).map(Arc::new));
            let (model, used) = (Mutex::new(given.transpose()?), AtomicU64::new(0));
            Ok(Arc::new(Entry {
                names: source.names,
                load: source.load,
                model,
                used,
                metrics,
                loading: Mutex::default(),
                opening: AtomicBool::new(false),
                going: AtomicBool::new(false),
                failed: Mutex::default(),
            }))
        };
        let entries = sources.into_iter().map(entry).collect::<sol_engine::Result<_>>()?;
        Ok(Self { entries, keep: keep.max(1), queue, clock: AtomicU64::new(1), loading: Arc::default() })
    }

    /// Which model a name means; the first, where there is none.
    fn find(&self, name: Option<&str>) -> Result<(usize, String)> {
        let Some(name) = name else { return Ok((0, self.first().to_owned())) };
        if let Some(at) = self.entries.iter().position(|entry| entry.names.iter().any(|known| known == name)) {
            return Ok((at, name.to_owned()));
        }
        let shown: String = name.chars().take(100).collect();
        let known: Vec<&str> = self.names().map(|(name, ..)| name).collect();
        let message = format!("the model '{shown}' does not exist; this server has '{}'", known.join("', '"));
        Err(Refused::field("model", message).status(StatusCode::NOT_FOUND).code("model_not_found"))
    }

    /// The first one's name.
    pub(crate) fn first(&self) -> &str {
        self.entries[0].names.first().map_or("", String::as_str)
    }

    /// Every name, the model's own, and the model if it is in memory.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, &str, Option<Arc<Model>>)> {
        self.entries.iter().flat_map(|entry| {
            let model = entry.model().clone();
            entry.names.iter().map(move |name| (name.as_str(), entry.names[0].as_str(), model.clone()))
        })
    }

    /// The first model, if it is in memory.
    pub(crate) fn first_ready(&self) -> Option<Arc<Model>> {
        self.entries[0].model().clone()
    }

    /// Those in memory.
    pub(crate) fn ready(&self) -> Vec<Arc<Model>> {
        self.entries.iter().filter_map(|entry| entry.live()).collect()
    }

    /// Figures of all, for Prometheus.
    pub(crate) fn metrics(&self, refused: u64) -> String {
        let models: Vec<_> = self.entries.iter().map(|entry| (entry, entry.model().clone())).collect();
        let rows = models.iter().map(|(entry, model)| Row {
            model: &entry.names[0],
            metrics: &entry.metrics,
            figures: model.as_ref().map(|model| model.serving.figures()),
        });
        let rows: Vec<Row<'_>> = rows.collect();
        metrics::text(&rows, refused)
    }

    /// Whether one has ended that can not be loaded again.
    pub(crate) fn ended(&self) -> bool {
        self.ready().iter().any(|model| model.serving.ended())
    }

    fn in_memory(&self, at: usize) -> Option<Arc<Model>> {
        let entry = &self.entries[at];
        entry.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        entry.live()
    }

    /// Loads the first model, unless it is there.
    pub(crate) async fn load_first(&self) -> sol_engine::Result<()> {
        match self.in_memory(0) {
            Some(_) => Ok(()),
            None => open(&self.entries[0], self.queue, Arc::clone(&self.loading).lock_owned().await).await.map(drop),
        }
    }

    /// Lets idle models go, the least recently used first, until there is a place; waits for one that is not idle, which then gets
    /// no new requests.
    async fn make_room(&self, draining: impl Fn() -> bool) -> Result<()> {
        let mut going = None;
        loop {
            if draining() {
                return Err(Refused::going());
            }
            if self.ready().len() < self.keep {
                return Ok(());
            }
            let mut order: Vec<&Arc<Entry>> = self.entries.iter().filter(|entry| entry.load.is_some()).collect();
            order.sort_by_key(|entry| entry.used.load(Ordering::Relaxed));
            if let Some((name, model)) = order.iter().find_map(|entry| Some((&entry.names[0], entry.take_idle()?))) {
                // Its engine's thread ends first.
                aside(move || drop(model)).await?;
                tracing::info!(model = name, "made room");
            } else {
                let oldest = || order.iter().find(|entry| entry.model().is_some());
                going = going.or_else(|| Some(Flag::raise(oldest()?, |entry| &entry.going)));
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// What is true of a model as long as this lives.
struct Flag {
    entry: Arc<Entry>,
    of: fn(&Entry) -> &AtomicBool,
}

impl Flag {
    fn raise(entry: &Arc<Entry>, of: fn(&Entry) -> &AtomicBool) -> Self {
        of(entry).store(true, Ordering::Relaxed);
        Self { entry: Arc::clone(entry), of }
    }
}

impl Drop for Flag {
    fn drop(&mut self) {
        (self.of)(&self.entry).store(false, Ordering::Relaxed);
    }
}

/// What a client is told of a model that can not be loaded.
fn not_loaded(name: &str, error: &Error) -> Refused {
    let message = format!("the model '{name}' can not be loaded: {error}");
    Refused::new(StatusCode::INTERNAL_SERVER_ERROR, message).code("model_not_loaded")
}

/// Opens a model, on a thread that no stream waits for; `alone` until it is there, also where nobody waits any more.
async fn open(entry: &Arc<Entry>, queue: usize, alone: OwnedMutexGuard<()>) -> sol_engine::Result<Arc<Model>> {
    let opening = Flag::raise(entry, |entry| &entry.opening);
    let opened = tokio::task::spawn_blocking(move || {
        let _alone = alone;
        let entry = &opening.entry;
        let load = entry.load.as_ref().ok_or(Error::Interrupted)?;
        let opened = load().and_then(|model| Model::new(model, queue, Arc::clone(&entry.metrics))).map(Arc::new);
        match &opened {
            Ok(model) => *entry.model() = Some(Arc::clone(model)),
            Err(error) => *locked(&entry.failed) = Some((Instant::now(), not_loaded(&entry.names[0], error))),
        }
        opened
    });
    opened.await.unwrap_or(Err(Error::Interrupted))
}

impl App {
    /// The model of a request, loaded if need be, and the name by which it was asked for. It stays in memory, and the server waits
    /// for the request, as long as it is held.
    pub(crate) async fn model(self: &Arc<Self>, name: Option<&str>) -> Result<(Held, String)> {
        let (at, name) = self.models.find(name)?;
        let entered = Arc::new(self.enter()?);
        let entry = &self.models.entries[at];
        let found = self.models.in_memory(at).filter(|_| !entry.going.load(Ordering::Relaxed));
        let model = match found {
            Some(model) => model,
            None => self.wait_for(at).await?,
        };
        Ok((Held { model, _entered: entered }, name))
    }

    /// Waits until a model is loaded, but for a place in memory no longer than others' patience.
    async fn wait_for(self: &Arc<Self>, at: usize) -> Result<Arc<Model>> {
        let entry = &self.models.entries[at];
        entry.check_failed()?;
        let loading = self.loading(at);
        match tokio::time::timeout(self.patience, loading.clone()).await {
            Ok(loaded) => loaded,
            Err(_) if entry.opening.load(Ordering::Relaxed) => loading.await,
            Err(_) => Err(Refused::busy("all models that are kept in memory are busy; try again soon")),
        }
    }

    /// What loads a model: the same for all who wait for it.
    fn loading(self: &Arc<Self>, at: usize) -> Shared<Loading> {
        let mut known = locked(&self.models.entries[at].loading);
        if let Some(loading) = known.as_ref().and_then(WeakShared::upgrade) {
            return loading;
        }
        let app = Arc::clone(self);
        let loading = async move { app.load(at).await }.boxed().shared();
        *known = loading.downgrade();
        loading
    }

    /// Loads a model, unless another request has done so meanwhile.
    async fn load(self: Arc<Self>, at: usize) -> Result<Arc<Model>> {
        let (models, entry) = (&self.models, &self.models.entries[at]);
        let alone = Arc::clone(&models.loading).lock_owned().await;
        if let Some(model) = models.in_memory(at) {
            return Ok(model);
        }
        entry.check_failed()?;
        models.make_room(|| self.draining()).await?;
        let (name, begun) = (&entry.names[0], Instant::now());
        match open(entry, models.queue, alone).await {
            Ok(model) => {
                let (ms, kv_tokens) = (begun.elapsed().as_millis() as u64, model.kv.0);
                tracing::info!(model = name, ms, context = model.context, kv_tokens, "loaded");
                Ok(model)
            }
            Err(error) => {
                tracing::error!("the model '{name}' can not be loaded: {error}");
                Err(not_loaded(name, &error))
            }
        }
    }

    /// Refuses a name that no model has.
    pub(crate) fn known(&self, name: &str) -> Result<()> {
        self.models.find(Some(name)).map(drop)
    }
}
