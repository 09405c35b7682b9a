//! Who answers: the engine of this process.

use std::cell::RefCell;

use sol_engine::{LanguageModel, Prompt, Sampling, Scorer, Scoring};
use sol_text::Encode;

use crate::document::{Answer, Ask, Document, GenKwargs};
use crate::python::text::rstrip;
use crate::{Error, Result};

/// What answering took, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// That went through the decoder.
    pub computed: u64,
    /// That would have if no two different inputs shared anything. (One input for several one-token continuations counts once, as
    /// the harness runs it once.)
    pub naive: u64,
    /// Made.
    pub generated: u64,
    /// Prompts that lost their beginning because they did not fit the context.
    pub truncated: u64,
}

/// A model in this process.
pub struct Local<'a> {
    model: &'a mut LanguageModel,
    add_bos: bool,
    scorer: Scorer,
    cost: Cost,
}

/// Tokens to generate where a task does not say.
const MAX_GEN_TOKS: usize = 256;

/// Bytes of each end of a tensor that its model's fingerprint is made of.
const SAMPLE: usize = 4096;

impl<'a> Local<'a> {
    /// A model to be asked. As in the harness, texts get no BOS except with Gemma, which needs one.
    pub fn new(model: &'a mut LanguageModel) -> Self {
        let add_bos = model.spec().architecture.contains("gemma");
        Self { model, add_bos, scorer: Scorer::default(), cost: Cost::default() }
    }

    /// What answering took so far.
    pub fn cost(&self) -> Cost {
        let (computed, naive) = self.scorer.tokens();
        Cost { computed: self.cost.computed + computed, naive: self.cost.naive + naive, ..self.cost }
    }

    /// Tells this model's answers from another's: a hash of what every tensor is called, how it is stored and how its data begin and
    /// end, of the tokens, and of the settings that change numbers. (The number of threads changes none.)
    pub fn fingerprint(&mut self) -> String {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        if let Ok(tokenizer) = self.model.tokenizer() {
            let tokens = (0..tokenizer.vocab_size() as u32).filter_map(|id| tokenizer.token(id));
            tokens.for_each(|token| hash.update(format!("{token}\n")));
        }
        let (context, add_bos, eos) = (self.model.context(), self.add_bos, self.eos());
        let engine = self.model.engine();
        for tensor in engine.model().checkpoint().tensors() {
            let bytes = tensor.bytes();
            let sample = SAMPLE.min(bytes.len());
            hash.update(format!("{} {:?} {:?};", tensor.name, tensor.dtype, tensor.shape));
            hash.update(&bytes[..sample]);
            hash.update(&bytes[bytes.len() - sample..]);
        }
        let spec = engine.model().spec();
        hash.update(format!("context {context}, keys {:?}, bos {add_bos}, eos {eos:?}, {spec:?}", engine.kv_type()));
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The text of the token that ends a text, at which generated answers are cut.
    pub fn eos(&self) -> Option<String> {
        let tokenizer = self.model.tokenizer().ok()?;
        tokenizer.token(tokenizer.eos()?).map(str::to_owned)
    }

    /// Answers documents; `each(index, answer)` is called as soon as one is known, in any order. When `stop` turns true, answers
    /// that are known have been given.
    pub fn answer(
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
            Ok(()) => self.texts(documents, &stop, &mut deliver),
            Err(e) => Err(e),
        };
        match (failed.into_inner(), result) {
            (Some(e), _) => Err(e),
            (None, Err(Error::Engine(sol_engine::Error::Interrupted))) => Err(Error::Interrupted),
            (None, result) => result,
        }
    }

    fn choices(&mut self, documents: &[Document], stop: &dyn Fn() -> bool, each: &mut dyn FnMut(usize, Answer)) -> Result<()> {
        let mut scorings = Vec::new();
        let mut places = Vec::new();
        let mut answers: Vec<(Vec<(f64, bool)>, usize)> = Vec::with_capacity(documents.len());
        for (i, document) in documents.iter().enumerate() {
            let Ask::Choices(choices) = &document.ask else {
                answers.push((Vec::new(), 0));
                continue;
            };
            answers.push((vec![(0.0, false); choices.len()], choices.len()));
            // The same for all choices: tokenising is not free.
            let context = self.encode(rstrip(&document.context))?.len();
            let mut truncated = false;
            for (k, choice) in choices.iter().enumerate() {
                scorings.push(self.split(document, context, choice, &mut truncated)?);
                places.push((i, k));
            }
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

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.model.tokenizer()?.encode(text, Encode { add_bos: self.add_bos, parse_special: true })?)
    }

    /// A context's and a continuation's tokens as the harness splits them: spaces that end the context go to the continuation, both
    /// are tokenised as one text, and the length of the context alone, in tokens, says where the continuation begins.
    fn split(&self, document: &Document, context: usize, continuation: &str, truncated: &mut bool) -> Result<Scoring> {
        let problem = |problem: &str| Error::Document {
            task: document.task.to_string(),
            doc_id: document.doc_id,
            problem: format!("{problem}, continuation '{continuation}'"),
        };
        let (mut tokens, length) = if document.context.is_empty() {
            let tokenizer = self.model.tokenizer()?;
            let first = tokenizer.bos().or(tokenizer.eos()).ok_or_else(|| problem("an empty context, and no BOS"))?;
            let tokens = self.encode(continuation)?;
            let length = tokens.len();
            ([&[first], &tokens[..]].concat(), length)
        } else {
            let whole = self.encode(&(document.context.clone() + continuation))?;
            let length = whole.len().saturating_sub(context);
            (whole, length)
        };
        if length == 0 || tokens.len() <= length {
            return Err(problem("nothing is left of the context or the continuation once both are tokens"));
        }
        let longest = self.model.context() + 1;
        if tokens.len() > longest {
            if length >= longest {
                return Err(problem("the continuation does not fit the context"));
            }
            *truncated = true;
            tokens.drain(..tokens.len() - longest);
        }
        Ok(Scoring { tokens, continuation: length })
    }

    fn texts(&mut self, documents: &[Document], stop: &dyn Fn() -> bool, each: &mut dyn FnMut(usize, Answer)) -> Result<()> {
        let mut asked = Vec::new();
        for (i, document) in documents.iter().enumerate() {
            if let Ask::Generate(kwargs) = &document.ask {
                asked.push((i, self.prompt(document, kwargs)?));
            }
        }
        if asked.is_empty() {
            return Ok(());
        }
        // The engine's cache is one; what scoring left there would be in the way.
        self.scorer.clear(self.model.engine());
        asked.sort_by(|a, b| a.1.tokens.cmp(&b.1.tokens));
        let (places, prompts): (Vec<usize>, Vec<Prompt>) = asked.into_iter().unzip();
        let tally = self.model.generate_many(&prompts, stop, &mut |at, reply| each(places[at], Answer::Text(reply.text)))?;
        self.cost.computed += tally.computed;
        self.cost.naive += tally.naive;
        self.cost.generated += tally.generated;
        Ok(())
    }

    fn prompt(&mut self, document: &Document, kwargs: &GenKwargs) -> Result<Prompt> {
        let number = |key: &str| kwargs.0.get(key).and_then(serde_json::Value::as_f64);
        let max_tokens = number("max_gen_toks").map_or(MAX_GEN_TOKS, |n| n as usize);
        let until = kwargs.0.get("until").and_then(serde_json::Value::as_array).into_iter().flatten();
        let stop: Vec<String> = until.filter_map(|s| s.as_str().map(str::to_owned)).chain(self.eos()).collect();
        let mut tokens = self.encode(&document.context)?;
        let longest = self.model.context().saturating_sub(max_tokens).max(1);
        if tokens.len() > longest {
            self.cost.truncated += 1;
            tokens.drain(..tokens.len() - longest);
        }
        let samples = kwargs.0.get("do_sample").and_then(serde_json::Value::as_bool).unwrap_or(false);
        let sampling = Sampling {
            temperature: if samples { number("temperature").unwrap_or(1.0) as f32 } else { 0.0 },
            top_p: number("top_p").unwrap_or(1.0) as f32,
            seed: document.doc_id as u64,
            ..Sampling::default()
        };
        Ok(Prompt { tokens, sampling, max_tokens, stop })
    }
}
