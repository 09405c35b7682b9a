//! The engine of this process.

use std::cell::RefCell;

use sha2::{Digest, Sha256};
use sol_engine::{LanguageModel, Prompt, Sampling, Scorer};

use super::split::{Splitter, eos, hash_tokens};
use super::{Cost, Model};
use crate::document::{Answer, Ask, Document, GenKwargs};
use crate::hash::digits;
use crate::{Error, Result};

/// A model in this process.
pub struct Local<'a> {
    model: &'a mut LanguageModel,
    add_bos: bool,
    scorer: Scorer,
    cost: Cost,
}

/// A tensor's part in its model's fingerprint: so many pieces, spread over it, of so many bytes.
const PIECES: usize = 32;
const PIECE: usize = 1024;

impl<'a> Local<'a> {
    /// A model to be asked. As in the harness, texts get no BOS except with Gemma, which needs one.
    pub fn new(model: &'a mut LanguageModel) -> Self {
        let add_bos = model.spec().architecture.contains("gemma");
        Self { model, add_bos, scorer: Scorer::default(), cost: Cost::default() }
    }

    /// Computes every context anew, to measure what sharing them saves.
    pub fn without_sharing(mut self) -> Self {
        self.scorer = Scorer::without_sharing();
        self
    }

    fn choices(&mut self, documents: &[Document], stop: &dyn Fn() -> bool, each: &mut dyn FnMut(usize, Answer)) -> Result<()> {
        let splitter = splitter(self.model, self.add_bos)?;
        let mut scorings = Vec::new();
        let mut places = Vec::new();
        let mut answers: Vec<(Vec<(f64, bool)>, usize)> = Vec::with_capacity(documents.len());
        for (i, document) in documents.iter().enumerate() {
            let Ask::Choices(choices) = &document.ask else {
                answers.push((Vec::new(), 0));
                continue;
            };
            answers.push((vec![(0.0, false); choices.len()], choices.len()));
            let (split, truncated) = splitter.choices(document, choices)?;
            places.extend((0..split.len()).map(|k| (i, k)));
            scorings.extend(split);
            self.cost.truncated += u64::from(truncated);
        }
        self.scorer.score(self.model.engine(), &scorings, stop, &mut |at, score| {
            let (i, k) = places[at];
            let (scores, missing) = &mut answers[i];
            scores[k] = (score.log_likelihood, score.greedy);
            *missing -= 1;
            if *missing == 0 {
                each(i, Answer::Choices(std::mem::take(scores)));
            }
        })?;
        Ok(())
    }

    /// Log-likelihoods of whole texts.
    fn rolling(&mut self, documents: &[Document], stop: &dyn Fn() -> bool, each: &mut dyn FnMut(usize, Answer)) -> Result<()> {
        let mut scorings = Vec::new();
        let mut places = Vec::new();
        let mut answers: Vec<(f64, usize)> = vec![(0.0, 0); documents.len()];
        let splitter = splitter(self.model, self.add_bos)?;
        for (i, document) in documents.iter().enumerate().filter(|(_, d)| d.ask == Ask::Rolling) {
            let windows = splitter.windows(document)?;
            places.extend(windows.iter().map(|_| i));
            answers[i].1 = windows.len();
            scorings.extend(windows);
            if answers[i].1 == 0 {
                each(i, Answer::Rolling(0.0));
            }
        }
        if scorings.is_empty() {
            return Ok(());
        }
        self.scorer.score(self.model.engine(), &scorings, stop, &mut |at, score| {
            let (sum, missing) = &mut answers[places[at]];
            *sum += score.log_likelihood;
            *missing -= 1;
            if *missing == 0 {
                each(places[at], Answer::Rolling(*sum));
            }
        })?;
        Ok(())
    }

    fn texts(&mut self, documents: &[Document], stop: &dyn Fn() -> bool, each: &mut dyn FnMut(usize, Answer)) -> Result<()> {
        let mut asked = Vec::new();
        let mut answers: Vec<(Vec<String>, usize)> = vec![(Vec::new(), 0); documents.len()];
        for (i, document) in documents.iter().enumerate() {
            let Ask::Generate(kwargs) = &document.ask else { continue };
            let prompt = self.prompt(document, kwargs)?;
            let samples = kwargs.samples();
            answers[i] = (vec![String::new(); samples], samples);
            for k in 0..samples {
                let mut prompt = prompt.clone();
                prompt.sampling.seed = kwargs.seed() ^ (document.doc_id * samples + k) as u64;
                asked.push((i, k, prompt));
            }
        }
        if asked.is_empty() {
            return Ok(());
        }
        // The engine's cache is one; what scoring left there would be in the way.
        self.scorer.clear(self.model.engine());
        asked.sort_by(|a, b| a.2.tokens.cmp(&b.2.tokens));
        let (places, prompts): (Vec<(usize, usize)>, Vec<Prompt>) = asked.into_iter().map(|(i, k, p)| ((i, k), p)).unzip();
        let tally = self.model.generate_many(&prompts, stop, &mut |at, reply| {
            let (i, k) = places[at];
            let (texts, missing) = &mut answers[i];
            texts[k] = reply.text;
            *missing -= 1;
            if *missing == 0 {
                each(i, Answer::Texts(std::mem::take(texts)));
            }
        })?;
        self.cost.computed += tally.computed;
        self.cost.naive += tally.naive;
        self.cost.generated += tally.generated;
        Ok(())
    }

    fn prompt(&mut self, document: &Document, kwargs: &GenKwargs) -> Result<Prompt> {
        let stop: Vec<String> = kwargs.until().map(str::to_owned).chain(self.eos()).collect();
        let splitter = splitter(self.model, self.add_bos)?;
        let (tokens, max_tokens, truncated) = splitter.prompt(document, kwargs, self.model.context())?;
        self.cost.truncated += u64::from(truncated);
        let sampling = Sampling {
            temperature: kwargs.temperature() as f32,
            top_p: kwargs.number("top_p").unwrap_or(1.0) as f32,
            top_k: kwargs.number("top_k").unwrap_or(0.0) as usize,
            ..Sampling::default()
        };
        Ok(Prompt { tokens, sampling, max_tokens, stop, keep_special: kwargs.programs() })
    }
}

fn splitter(model: &LanguageModel, add_bos: bool) -> Result<Splitter<'_>> {
    Ok(Splitter { tokenizer: model.tokenizer()?, add_bos, longest: model.context() + 1 })
}

impl Model for Local<'_> {
    fn cost(&self) -> Cost {
        let (computed, naive) = self.scorer.tokens();
        Cost { computed: self.cost.computed + computed, naive: self.cost.naive + naive, ..self.cost }
    }

    /// A hash of this program's version, of what every tensor is called, how it is stored and pieces of its data, of the tokenizer, and of
    /// the settings that change numbers. (The number of threads changes none.)
    fn fingerprint(&mut self) -> String {
        let mut hash = Sha256::new_with_prefix(env!("CARGO_PKG_VERSION"));
        if let Ok(tokenizer) = self.model.tokenizer() {
            hash_tokens(tokenizer, &mut hash);
        }
        let (context, add_bos, eos) = (self.model.context(), self.add_bos, self.eos());
        let engine = self.model.engine();
        for tensor in engine.model().checkpoint().tensors() {
            let bytes = tensor.bytes();
            hash.update(format!("{} {:?} {:?};", tensor.name, tensor.dtype, tensor.shape));
            match bytes.len().checked_sub(PIECE) {
                None => hash.update(bytes),
                Some(last) => {
                    (0..=PIECES).map(|i| last / PIECES * i).chain([last]).for_each(|at| hash.update(&bytes[at..at + PIECE]))
                }
            }
        }
        let spec = engine.model().spec();
        hash.update(format!("context {context}, keys {:?}, bos {add_bos}, eos {eos:?}, {spec:?}", engine.kv_type()));
        digits(hash)
    }

    fn eos(&self) -> Option<String> {
        eos(self.model.tokenizer().ok()?)
    }

    fn answer(
        &mut self,
        documents: &[Document],
        stop: &dyn Fn() -> bool,
        each: &mut dyn FnMut(usize, Answer) -> Result<()>,
    ) -> Result<()> {
        let failed = RefCell::new(None);
        let stop = || stop() || failed.borrow().is_some();
        let mut deliver = |index, answer| {
            if failed.borrow().is_none()
                && let Err(e) = each(index, answer)
            {
                *failed.borrow_mut() = Some(e);
            }
        };
        let result = match self.choices(documents, &stop, &mut deliver) {
            Ok(()) => self.rolling(documents, &stop, &mut deliver).and_then(|()| self.texts(documents, &stop, &mut deliver)),
            Err(e) => Err(e),
        };
        match (failed.into_inner(), result) {
            (Some(e), _) => Err(e),
            (None, Err(Error::Engine(sol_engine::Error::Interrupted))) => Err(Error::Interrupted),
            (None, result) => result,
        }
    }
}
