//! A model behind a server: what it is asked, what its answers become, and what happens when it misbehaves.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sol_eval::document::{Answer, Ask, Document, GenKwargs};
use sol_eval::model::{Model, Remote, RemoteOptions, conversation};
use sol_eval::{Error, Result};
use sol_text::{Encode, Message, Tokenizer};

struct Reply {
    status: u16,
    headers: &'static str,
    body: String,
    /// Close the connection before the body's last byte.
    cut: bool,
    delay: Duration,
}

impl Reply {
    fn new(status: u16, body: impl ToString) -> Self {
        Self { status, headers: "", body: body.to_string(), cut: false, delay: Duration::ZERO }
    }
}

#[derive(Default)]
struct Seen {
    bodies: Mutex<Vec<Value>>,
    flying: AtomicUsize,
    most_flying: AtomicUsize,
}

/// Answers POSTs by a function of path, body, and how many came before; GETs by a list of one model.
fn serve(answer: impl Fn(&str, &Value, usize) -> Reply + Send + Sync + 'static) -> (String, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (seen, answer) = (Arc::new(Seen::default()), Arc::new(answer));
    let outer = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (seen, answer) = (Arc::clone(&outer), Arc::clone(&answer));
            std::thread::spawn(move || talk(&stream.unwrap(), &seen, &*answer));
        }
    });
    (url, seen)
}

fn talk(stream: &TcpStream, seen: &Seen, answer: &dyn Fn(&str, &Value, usize) -> Reply) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        reader.read_line(&mut first).ok()?;
        let path = first.split(' ').nth(1)?.to_owned();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            match line.trim().to_lowercase().split_once(':') {
                Some(("content-length", n)) => length = n.trim().parse().unwrap(),
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let reply = if first.starts_with("GET") {
            Reply::new(200, json!({"data": [{"id": "m", "root": "base", "created": 7, "max_model_len": 64}]}))
        } else {
            let flying = seen.flying.fetch_add(1, Ordering::SeqCst) + 1;
            seen.most_flying.fetch_max(flying, Ordering::SeqCst);
            let body: Value = serde_json::from_slice(&body).unwrap();
            let before = {
                let mut bodies = seen.bodies.lock().unwrap();
                bodies.push(body.clone());
                bodies.len() - 1
            };
            let reply = answer(&path, &body, before);
            std::thread::sleep(reply.delay);
            seen.flying.fetch_sub(1, Ordering::SeqCst);
            reply
        };
        let sent = &reply.body[..reply.body.len() - usize::from(reply.cut)];
        let (status, headers, length) = (reply.status, reply.headers, reply.body.len());
        write!(&*stream, "HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n{sent}").ok()?;
        if reply.cut {
            return None;
        }
    }
}

/// The fake model: how likely a text, or a list of tokens, is to end as it does.
fn likely(text: &[u8]) -> (f64, bool) {
    let mut crc = flate2::Crc::new();
    crc.update(text);
    (-f64::from(crc.sum() % 997) / 100.0, crc.sum() & 1024 == 0)
}

/// Words with the spaces before them: this model's tokens.
fn words(text: &str) -> Vec<&str> {
    let mut ends: Vec<usize> = text.match_indices(' ').map(|(at, _)| at).filter(|at| *at > 0).collect();
    ends.push(text.len());
    let mut start = 0;
    ends.into_iter().map(|end| &text[std::mem::replace(&mut start, end)..end]).collect()
}

fn bytes(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// An echo with log-likelihoods, and one token more.
fn echo(body: &Value) -> Value {
    assert_eq!((&body["echo"], &body["logprobs"], &body["max_tokens"]), (&json!(true), &json!(1), &json!(1)));
    let (tokens, scores): (Vec<String>, Vec<(f64, bool)>) = match &body["prompt"] {
        Value::String(text) => {
            let mut read = 0;
            let score = |word: &str| {
                read += word.len();
                (word.to_owned(), likely(&text.as_bytes()[..read]))
            };
            words(text).into_iter().map(score).unzip()
        }
        ids => {
            let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
            (0..ids.len()).map(|i| (ids[i].to_string(), likely(&bytes(&ids[..=i])))).unzip()
        }
    };
    let made = [json!(-0.5)];
    let all: Vec<Value> =
        scores.iter().enumerate().map(|(i, s)| if i == 0 { Value::Null } else { json!(s.0) }).chain(made).collect();
    let top = |(token, score): (&String, &(f64, bool))| {
        let other = if score.1 { score.0 - 1.0 } else { score.0 + 1.0 };
        json!({token: score.0, "<other>": other})
    };
    let tops: Vec<Value> = tokens.iter().zip(&scores).map(top).collect();
    let prompt_tokens = tokens.len();
    let tokens: Vec<String> = tokens.into_iter().chain([" made".to_owned()]).collect();
    let logprobs = json!({"tokens": tokens, "token_logprobs": all, "top_logprobs": tops});
    json!({
        "choices": [{"index": 0, "text": tokens.concat(), "logprobs": logprobs}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1}},
    })
}

fn document(doc_id: usize, context: &str, ask: Ask) -> Document {
    let (row, target) = (Arc::new(Value::Null), Value::Null);
    Document { task: "task".into(), doc_id, row, context: context.to_owned(), conversation: false, ask, target }
}

fn questions() -> Vec<Document> {
    let choices = |i: usize| (0..1 + i % 4).map(|k| format!(" choice {k} of {i}")).collect();
    (0..20).map(|i| document(i, &format!("Question é {i}\nAnswer:"), Ask::Choices(choices(i)))).collect()
}

fn options(url: &str) -> RemoteOptions {
    RemoteOptions { retries: 2, backoff: Duration::from_millis(2), ..RemoteOptions::new(url, "m") }
}

fn ask(remote: &mut Remote, documents: &[Document]) -> (BTreeMap<usize, Answer>, Result<()>) {
    let mut answers = BTreeMap::new();
    let result = remote.answer(documents, &|| false, &mut |i, answer| {
        assert_eq!(answers.insert(i, answer), None, "an answer is given once");
        Ok(())
    });
    (answers, result)
}

fn ask_all(remote: &mut Remote, documents: &[Document]) -> Vec<Answer> {
    let (answers, result) = ask(remote, documents);
    result.unwrap();
    assert_eq!(answers.len(), documents.len());
    answers.into_values().collect()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../sol-text/tests/data/bpe-gpt2")).unwrap()
}

#[test]
fn choices_are_scored_by_the_words_of_the_echo_whatever_the_order() {
    let (url, seen) =
        serve(|_, body, before| Reply { delay: Duration::from_millis(5 + before as u64 % 20), ..Reply::new(200, echo(body)) });
    let expected: Vec<Answer> = questions()
        .iter()
        .map(|document| {
            let Ask::Choices(choices) = &document.ask else { panic!("not a question with choices") };
            let score = |choice: &String| {
                let (mut text, mut sum, mut greedy) = (document.context.clone(), 0.0, true);
                for word in words(choice) {
                    text += word;
                    let (score, top) = likely(text.as_bytes());
                    sum += score;
                    greedy &= top;
                }
                (sum, greedy)
            };
            Answer::Choices(choices.iter().map(score).collect())
        })
        .collect();
    let mut remote = Remote::new(options(&url)).unwrap();
    assert_eq!(ask_all(&mut remote, &questions()), expected);
    assert!((2..=16).contains(&seen.most_flying.load(Ordering::SeqCst)));
    let cost = remote.cost();
    assert_eq!((cost.naive - cost.computed, cost.generated), (50, 0), "50 requests, a token of each was cached");
    let mut alone = Remote::new(RemoteOptions { concurrency: 1, ..options(&url) }).unwrap();
    seen.most_flying.store(0, Ordering::SeqCst);
    assert_eq!(ask_all(&mut alone, &questions()), expected);
    assert_eq!(seen.most_flying.load(Ordering::SeqCst), 1);
}

#[test]
fn with_a_tokenizer_prompts_are_tokens_split_and_cut_as_in_the_harness() {
    let (url, _) = serve(|_, body, _| Reply::new(200, echo(body)));
    let tokens = tokenizer();
    let encode = |text: &str| tokens.encode(text, Encode { add_bos: false, parse_special: true }).unwrap();
    let begin = tokens.bos().or(tokens.eos()).unwrap();
    let long = "one two three four five six seven eight nine ten eleven twelve thirteen";
    let choices = || Ask::Choices(vec![" yes".into(), " no way".into()]);
    let documents = [
        document(0, "Is it? ", choices()),
        document(1, "", choices()),
        document(2, long, choices()),
        document(3, long, Ask::Rolling),
        document(4, "", Ask::Rolling),
    ];
    let score = |tokens: &[u32], continuation: usize| {
        let ends = tokens.len() - continuation + 1..=tokens.len();
        ends.fold((0.0, true), |(sum, greedy), end| {
            let (score, top) = likely(&bytes(&tokens[..end]));
            (sum + score, greedy && top)
        })
    };
    // A token is made, so of sixteen fifteen are left.
    let cut = |tokens: &[u32]| tokens[tokens.len().saturating_sub(15)..].to_vec();
    let choice = |document: &Document, choice: &str| {
        let whole = encode(&format!("{}{choice}", document.context));
        let continuation = whole.len() - encode(document.context.trim_end()).len();
        let whole = if document.context.is_empty() { [vec![begin], whole].concat() } else { whole };
        score(&cut(&whole), continuation)
    };
    let rolled = [vec![begin], encode(long)].concat();
    let mut sum = 0.0;
    let mut end = 1;
    while end < rolled.len() {
        let scored = (rolled.len() - end).min(14);
        end += scored;
        sum += score(&cut(&rolled[..end]), scored).0;
    }
    let mut expected: Vec<Answer> =
        documents[..3].iter().map(|d| Answer::Choices(vec![choice(d, " yes"), choice(d, " no way")])).collect();
    expected.extend([Answer::Rolling(sum), Answer::Rolling(0.0)]);
    let mut remote = Remote::new(RemoteOptions { tokenizer: Some(tokenizer()), max_length: Some(16), ..options(&url) }).unwrap();
    assert_eq!(ask_all(&mut remote, &documents), expected);
    assert_eq!(remote.cost().truncated, 1);
    assert_eq!(remote.eos().as_deref(), tokens.token(tokens.eos().unwrap()));
}

#[test]
fn whole_texts_without_a_tokenizer_count_all_but_their_first_token() {
    let (url, _) = serve(|_, body, _| Reply::new(200, echo(body)));
    let mut remote = Remote::new(options(&url)).unwrap();
    let expected = likely(b"a b").0 + likely(b"a b c").0;
    assert_eq!(ask_all(&mut remote, &[document(0, "a b c", Ask::Rolling)]), [Answer::Rolling(expected)]);
    // Without anything in front, one choice's first token can not be weighed against another's.
    let (_, result) = ask(&mut remote, &[document(0, "", Ask::Choices(vec!["a b".into()]))]);
    assert!(result.unwrap_err().to_string().contains("--tokenizer"));
}

fn kwargs(value: Value) -> Ask {
    let Value::Object(map) = value else { panic!("settings are an object") };
    Ask::Generate(GenKwargs(map))
}

#[test]
fn texts_are_asked_for_with_the_tasks_settings_and_cut_where_they_end() {
    let (url, seen) = serve(|path, body, _| {
        let said = "word\nQ: next END more";
        let chat = path.ends_with("/chat/completions");
        let choice = if chat {
            json!({"message": {"role": "assistant", "content": said}})
        } else {
            json!({"text": format!("{} {said}", body["seed"])})
        };
        Reply::new(200, json!({"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}))
    });
    let greedy =
        document(3, "Say", kwargs(json!({"until": ["1", "2", "3", "4", "END", "Q:"], "max_gen_toks": 9, "do_sample": false})));
    let mut chat = Remote::new(options(&url)).unwrap();
    let greedy = Document { context: conversation(&[Message::user("Say")]), conversation: true, ..greedy };
    assert_eq!(ask_all(&mut chat, std::slice::from_ref(&greedy)), [Answer::Texts(vec!["word\n".into()])]);
    assert_eq!(
        seen.bodies.lock().unwrap()[0],
        json!({"model": "m", "max_tokens": 9, "temperature": 0.0, "seed": 3, "stop": ["1", "2", "3", "4"],
            "messages": [{"role": "user", "content": "Say"}]})
    );
    assert_eq!((chat.cost().computed, chat.cost().naive, chat.cost().generated), (5, 5, 3));

    // This server gives one text however many are wanted: the others are asked for with other seeds.
    let sampled = json!({"do_sample": true, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "n_samples": 3, "until": "\n"});
    let sampled = document(2, "Say", kwargs(sampled));
    let mut plain = Remote::new(options(&url)).unwrap();
    let texts = ["6 word", "7 word", "8 word"].map(str::to_owned).to_vec();
    assert_eq!(ask_all(&mut plain, &[sampled]), [Answer::Texts(texts)]);
    let bodies = seen.bodies.lock().unwrap().clone();
    assert_eq!(
        bodies[1],
        json!({"model": "m", "max_tokens": 256, "temperature": 0.5, "seed": 6, "prompt": "Say", "stop": ["\n"], "n": 3,
            "top_p": 0.9, "top_k": 7})
    );
    assert_eq!((bodies.len(), &bodies[3]["seed"], bodies[3].get("n")), (4, &json!(8), None));

    let mut tokens = Remote::new(RemoteOptions { tokenizer: Some(tokenizer()), ..options(&url) }).unwrap();
    ask_all(&mut tokens, &[Document { context: "Say".into(), conversation: false, ..greedy }]);
    assert!(seen.bodies.lock().unwrap()[4]["prompt"].as_array().is_some_and(|ids| ids.iter().all(Value::is_u64)));
}

#[test]
fn several_texts_of_one_request_keep_their_order() {
    let (url, seen) = serve(|_, body, _| {
        let n = body["n"].as_u64().unwrap_or(1);
        if n > 3 {
            return Reply::new(400, json!({"error": {"message": "n is too large"}}));
        }
        let choices: Vec<Value> = (0..n).rev().map(|i| json!({"index": i, "text": format!("text {i}")})).collect();
        Reply::new(200, json!({"choices": choices}))
    });
    let many = |n: usize| document(0, "Say", kwargs(json!({"n_samples": n, "until": []})));
    let mut remote = Remote::new(options(&url)).unwrap();
    assert_eq!(ask_all(&mut remote, &[many(3)]), [Answer::Texts((0..3).map(|i| format!("text {i}")).collect())]);
    assert_eq!(seen.bodies.lock().unwrap().len(), 1);
    assert_eq!(ask_all(&mut remote, &[many(4)]), [Answer::Texts(vec!["text 0".to_owned(); 4])]);
    assert_eq!(seen.bodies.lock().unwrap().len(), 6, "one was refused, four were taken");
}

#[test]
fn what_may_pass_is_tried_again() {
    let (url, seen) = serve(|_, body, before| match before {
        0 => Reply { headers: "retry-after: 0\r\n", ..Reply::new(429, "busy") },
        1 => Reply { cut: true, ..Reply::new(200, echo(body)) },
        2 => Reply::new(200, echo(body)),
        3 => Reply { cut: true, ..Reply::new(503, "x") },
        4 => Reply::new(408, ""),
        _ => Reply::new(200, echo(body)),
    });
    let mut remote = Remote::new(RemoteOptions { concurrency: 1, ..options(&url) }).unwrap();
    ask_all(&mut remote, &questions()[..2]);
    assert_eq!(seen.bodies.lock().unwrap().len(), 7, "three choices, and four requests that failed");
}

/// What is delivered, and the error, when every request from the third on is answered so.
fn misbehaving(timeout: Duration, reply: fn(&Value) -> Reply) -> (usize, String, usize) {
    let (url, seen) = serve(move |_, body, before| if before < 3 { Reply::new(200, echo(body)) } else { reply(body) });
    let mut remote = Remote::new(RemoteOptions { concurrency: 1, timeout, ..options(&url) }).unwrap();
    let (answers, result) = ask(&mut remote, &questions());
    let asked = seen.bodies.lock().unwrap().len();
    let text = result.unwrap_err().to_string();
    assert!(text.starts_with(&format!("{url}/completions")), "{text}");
    (answers.len(), text, asked)
}

#[test]
fn a_server_that_misbehaves_is_an_error_that_says_so_after_the_answers_before_it() {
    let within = |timeout, reply: fn(&Value) -> Reply, expected: &[&str]| {
        let (answers, text, asked) = misbehaving(timeout, reply);
        assert_eq!(answers, 2, "the first two documents have three choices together: {text}");
        let tries = if text.contains("given up after 3 tries") { 3 } else { 1 };
        assert_eq!(asked, 3 + tries, "{text}");
        expected.iter().for_each(|part| assert!(text.contains(part), "'{part}' is not in: {text}"));
    };
    let stays = |reply: fn(&Value) -> Reply, expected: &[&str]| within(Duration::from_secs(60), reply, expected);
    stays(|_| Reply::new(500, json!({"error": {"message": "out of memory"}})), &["answered 500: out of memory", "3 tries"]);
    stays(|body| Reply { cut: true, ..Reply::new(200, echo(body)) }, &["the connection broke", "3 tries"]);
    let slow = |_: &Value| Reply { delay: Duration::from_secs(4), ..Reply::new(200, "") };
    within(Duration::from_secs(1), slow, &["no answer within 1 s", "3 tries"]);
    stays(|_| Reply { headers: "retry-after: 4000\r\n", ..Reply::new(429, "") }, &["429", "wait for 4000 s"]);
    stays(|_| Reply::new(429, json!({"error": {"message": "pay", "code": "insufficient_quota"}})), &["pay (insufficient_quota)"]);
    stays(|_| Reply::new(400, json!({"detail": "no echo"})), &["400: no echo; this server gives no log-likelihoods of a prompt"]);
    stays(|_| Reply::new(401, ""), &["401; it wants a key: --api-key"]);
    stays(|_| Reply::new(403, "no"), &["403: no; the key may not"]);
    stays(
        |_| Reply::new(404, json!({"message": "no model m"})),
        &["404: no model m; --base-url ends in /v1", "/v1/models lists"],
    );
    stays(|_| Reply { headers: "location: http://elsewhere/\r\n", ..Reply::new(307, "") }, &["redirects to http://elsewhere/"]);
    stays(|_| Reply::new(200, ""), &["not what the OpenAI API says"]);
    stays(|_| Reply::new(200, "<html>hello"), &["it begins '<html>hello'"]);
    stays(|_| Reply::new(200, json!({"choices": []})), &["the answer is empty"]);
    stays(|_| Reply::new(200, json!({"error": {"message": "overloaded"}})), &["answers with an error: overloaded"]);
    stays(|_| Reply::new(200, json!({"choices": [{"text": "x", "logprobs": null}]})), &["this server gives no log-likelihoods"]);
    stays(|body| Reply::new(200, echo(body).to_string().replace("-0.5", "NaN")), &["not what the OpenAI API says"]);
    stays(
        |body| {
            let mut answer = echo(body);
            answer["choices"][0]["logprobs"]["token_logprobs"].as_array_mut().unwrap().iter_mut().for_each(|s| *s = Value::Null);
            Reply::new(200, answer)
        },
        &["the log-likelihood of token", "is null"],
    );
    stays(|_| Reply::new(200, " ".repeat(65 << 20)), &["longer than 64 MiB"]);
}

#[test]
fn who_wants_to_stop_does_not_wait_for_a_slow_server() {
    let (url, _) = serve(|_, body, _| {
        let quick = body["prompt"].as_str().unwrap().starts_with("Question é 0");
        let delay = if quick { Duration::ZERO } else { Duration::from_secs(20) };
        Reply { delay, ..Reply::new(200, echo(body)) }
    });
    let mut remote = Remote::new(options(&url)).unwrap();
    let answered = Cell::new(None);
    let result = remote.answer(&questions(), &|| answered.get().is_some(), &mut |i, _| {
        assert_eq!((i, answered.replace(Some(Instant::now()))), (0, None));
        Ok(())
    });
    assert!(matches!(result, Err(Error::Interrupted)));
    assert!(answered.get().unwrap().elapsed() < Duration::from_secs(5));

    // Nor does a pause between two tries hold anybody up; and the caller's own error ends it too.
    let (url, _) = serve(|_, body, before| if before == 0 { Reply::new(200, echo(body)) } else { Reply::new(503, "") });
    let slow = || RemoteOptions { backoff: Duration::from_secs(30), concurrency: 1, ..options(&url) };
    let started = Instant::now();
    let result = Remote::new(slow()).unwrap().answer(&questions(), &|| false, &mut |_, _| Err(Error::Interrupted));
    assert!(matches!(result, Err(Error::Interrupted)) && started.elapsed() < Duration::from_secs(5));
    let started = Instant::now();
    let stop = || started.elapsed() > Duration::from_millis(100);
    let result = Remote::new(slow()).unwrap().answer(&questions(), &stop, &mut |_, _| Ok(()));
    assert!(matches!(result, Err(Error::Interrupted)) && started.elapsed() < Duration::from_secs(5));
}

#[test]
fn requests_are_spaced_where_the_server_counts_them() {
    let (url, _) = serve(|_, body, _| Reply::new(200, echo(body)));
    let started = Instant::now();
    let mut remote = Remote::new(RemoteOptions { requests_per_minute: Some(1200), ..options(&url) }).unwrap();
    ask_all(&mut remote, &questions()[..3]);
    assert!(started.elapsed() >= Duration::from_millis(6 * 50), "six choices after the greeting: {:?}", started.elapsed());
}

#[test]
fn a_fingerprint_is_the_models_wherever_it_stands() {
    let start = || serve(|_, _, _| Reply::new(500, "")).0;
    let fingerprint = |options: RemoteOptions| Remote::new(options).unwrap().fingerprint();
    let first = fingerprint(options(&start()));
    assert_eq!(first, fingerprint(options(&start())));
    let url = start();
    let others = [
        RemoteOptions { model: "n".into(), ..options(&url) },
        RemoteOptions { tokenizer: Some(tokenizer()), ..options(&url) },
        RemoteOptions { tokenizer: Some(tokenizer()), max_length: Some(32), ..options(&url) },
    ];
    let mut all: Vec<String> = others.into_iter().map(fingerprint).chain([first]).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4);
}

#[test]
fn nobody_there_is_known_at_once() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = Remote::new(options(&format!("http://{free}/v1"))).err().unwrap().to_string();
    assert!(error.contains("the connection was refused; is the server up? (given up after 3 tries)"), "{error}");
}
