//! `sol upscale` and `sol lineage`, from outside: what they write is run, compared and inspected.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Machine, fixture};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Logits of a model for fixed tokens, as bytes.
fn logits(machine: &Machine, model: &str, ids: &str) -> Vec<f32> {
    let _ = fs::remove_file(machine.dir.path().join("logits.safetensors"));
    machine.run(&["logits", "-m", model, "--ids", ids, "--out", "logits.safetensors", "-q"]).ok();
    let bytes = fs::read(machine.dir.path().join("logits.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensor("logits").unwrap().data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// What is to compute the base does: to the bit, in both formats, also as a Solar made of a Phi-3 (whose GGUF turns the rows of
/// queries and keys).
#[test]
fn recipes_that_keep_the_function_keep_the_logits() {
    let machine = Machine::new();
    let at = |name: &str, text: &str| {
        fs::write(machine.dir.path().join(name), text).unwrap();
        name.to_owned()
    };
    // Two layers are too few for solar-pro.
    let skips = at("skips.toml", "tv = [1.0, 1.0]\nskips = [[1, 2]]\n[[slices]]\nlayers = [0, 2]\n[[slices]]\nlayers = [1, 2]\n");
    for (base, out, recipe) in [
        ("models/llama", "a", "identity"),
        ("models/llama", "b", "solar-pro"),
        ("models/llama3", "c", skips.as_str()),
        ("gguf/llama", "d.gguf", "identity"),
        ("gguf/llama", "e.gguf", "solar-pro"),
        ("models/phi3", "f", skips.as_str()),
        ("gguf/phi3", "g.gguf", skips.as_str()),
        ("gguf/phi3-split", "h.gguf", skips.as_str()),
        ("models/gemma2", "i", "identity"),
        ("models/phimoe", "k", "identity"),
        ("gguf/llama-q4_k", "l.gguf", "identity"),
    ] {
        let folder = fixture(base);
        let model = if base.starts_with("gguf/") { format!("{folder}/model.gguf") } else { folder.clone() };
        let ids = format!("{folder}/expected.safetensors");
        let mut args = vec!["upscale", "-m", &model, "-o", out, "--recipe", recipe, "--json"];
        if recipe != "identity" {
            args.extend(["--tv", "1"]);
        }
        let report = json(&machine.run(&args).ok());
        assert_eq!(report["keeps_function"], true, "{base}");
        if !base.contains("q4") {
            // The base of one format, the result of the other.
            let other = if out.ends_with(".gguf") { format!("{out}-hf") } else { format!("{out}.gguf") };
            let mut crossed: Vec<&str> = args.iter().map(|arg| if *arg == out { other.as_str() } else { arg }).collect();
            crossed.push("-q");
            let outcome = machine.run(&crossed);
            if base == "models/gemma2" {
                assert!(outcome.error().contains("every other layer the window"));
            } else {
                outcome.ok();
                assert!(distance(&logits(&machine, &model, &ids), &logits(&machine, &other, &ids)) <= 1e-4, "{base} as {other}");
            }
        }
        let solar = recipe != "identity";
        assert_eq!(report["architecture"] == "solar", solar);
        let (before, after) = (logits(&machine, &model, &ids), logits(&machine, out, &ids));
        let most = distance(&before, &after);
        // Rows of queries turn, and sums of a product in another order are another number.
        let allowed = if solar { 1e-4 } else { 0.0 };
        assert!(most <= allowed, "{base} by {recipe}: {most}");
        if solar {
            let other = format!("other-{out}");
            machine.run(&["upscale", "-m", &model, "-o", &other, "--recipe", recipe, "--tv", "0.5", "-q"]).ok();
            assert!(distance(&before, &logits(&machine, &other, &ids)) > 1e-2, "{base}: the skips are of no effect");
        }
    }
}

#[test]
fn a_solar_has_what_its_readers_want() {
    let machine = Machine::new();
    let phi3 = fixture("models/phi3");
    let recipe = "skips = [[1, 2]]\n[[slices]]\nlayers = [0, 2]\n[[slices]]\nlayers = [1, 2]\n";
    fs::write(machine.dir.path().join("r.toml"), recipe).unwrap();
    machine.run(&["upscale", "-m", &phi3, "-o", "solar", "-r", "r.toml", "--shard-size", "20KB"]).ok();
    let read = |name: &str| json(&fs::read_to_string(machine.dir.path().join("solar").join(name)).unwrap());
    let config = read("config.json");
    assert_eq!((&config["model_type"], &config["architectures"]), (&json!("solar"), &json!(["SolarForCausalLM"])));
    assert_eq!((&config["bskcn_1"], &config["bskcn_3"]), (&json!([1]), &json!([2])));
    assert_eq!((&config["bskcn_2"], &config["bskcn_4"]), (&json!([]), &json!([])));
    assert_eq!((&config["bskcn_tv"], &config["num_hidden_layers"]), (&json!([0.9, 0.8]), &json!(3)));
    assert_eq!((&config["sliding_window"], &config["embd_pdrop"]), (&json!(9), &Value::Null));
    let index = read("model.safetensors.index.json");
    let names: Vec<&String> = index["weight_map"].as_object().unwrap().keys().collect();
    for part in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"] {
        assert!(names.contains(&&format!("model.layers.2.{part}.weight")), "{names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("qkv") || name.contains("gate_up")));
    let card = fs::read_to_string(machine.dir.path().join("solar/README.md")).unwrap();
    assert!(card.starts_with("---\nbase_model: ") && card.contains("| model.safetensors | "), "{card}");
    // sha256sum of the fixture.
    let manifest = read("upscale.json");
    assert_eq!(manifest["sources"][0]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(
        manifest["tensors"]["model.layers.2.self_attn.q_proj.weight"]["source"],
        "model.layers.1.self_attn.qkv_proj.weight"
    );
    assert!(fs::read_dir(machine.dir.path().join("solar")).unwrap().count() > 4);
}

#[test]
fn a_whole_model_takes_its_tokenizer_along_and_answers() {
    let machine = Machine::new();
    let base = fixture("chat-tiny");
    let text = machine.dir.path().join("text");
    fs::write(&text, "the cat sat on the mat and the dog sat on the log. ".repeat(60)).unwrap();
    let args = ["upscale", "-m", &base, "-o", "deep", "-r", "identity", "--verify", "text", "--json"];
    let report = json(&machine.run(&args).ok());
    assert_eq!((&report["verify"]["same"], &report["verify"]["tokens"].is_u64()), (&json!(true), &true));
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json"] {
        let [a, b] = [std::path::Path::new(&base), &machine.dir.path().join("deep")].map(|dir| fs::read(dir.join(name)).unwrap());
        assert_eq!(a, b, "{name}");
    }
    let answer = |model: &str| machine.run(&["run", "-m", model, "-n", "8", "--temperature", "0", "-q", "Hi"]).ok();
    assert_eq!(answer(&base), answer("deep"));
    let gguf = fixture("chat-tiny.gguf");
    machine.run(&["upscale", "-m", &gguf, "-o", "deep.gguf", "-r", "identity", "--verify", "text"]).ok();
    assert_eq!(answer(&gguf), answer("deep.gguf"));
}

#[test]
fn a_plan_is_shown_and_written_without_a_model() {
    let machine = Machine::new();
    let base = fixture("models/llama");
    let picture = machine.run(&["upscale", "-m", &base, "-r", "dus", "--drop", "1", "--print"]).ok();
    assert!(picture.starts_with("dus: 3 layers become 4, ") && picture.contains("0-1  ██·  0-1"), "{picture}");
    let plan = json(&machine.run(&["upscale", "-m", &base, "-r", "solar-pro", "--print", "--json"]).ok());
    assert_eq!((&plan["bskcn_1"], &plan["bskcn_4"]), (&json!([1]), &json!([3])));
    assert_eq!(plan["layers"][3], json!({ "layer": 3, "source": 1, "scale": {} }));

    for file in ["r.toml", "r.yaml"] {
        machine.run(&["upscale", "-m", &base, "-r", "interleave", "--layers", "5", "--write-recipe", file]).ok();
        let again = machine.run(&["upscale", "-m", &base, "-r", file, "--print"]).ok();
        let named = machine.run(&["upscale", "-m", &base, "-r", "interleave", "--layers", "5", "--print"]).ok();
        assert_eq!(again, named.replacen("interleave", file, 1));
    }
    let error = machine.run(&["upscale", "-m", &base, "-r", "solar-pro", "--write-recipe", "s.yaml"]).error();
    assert!(error.contains("no skip connections; write it as .toml"), "{error}");
    assert_eq!(fs::read_dir(machine.dir.path()).unwrap().filter(|e| e.as_ref().unwrap().path().is_file()).count(), 2);
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    let machine = Machine::new();
    let llama = fixture("models/llama");
    let error = |args: &[&str]| machine.run(&[&["upscale", "-o", "x"], args].concat()).error();
    let base = ["-m", llama.as_str()];
    for (args, expected) in [
        (&["-r", "dus", "--drop", "3"][..], "--drop 3 leaves no layers: the base has 3"),
        (&["-r", "solar"], "no recipe solar; known are"),
        (&["-r", "interleve"], "did you mean interleave?"),
        (&["-r", "dus", "--tv", "1"], "--tv has no meaning for the recipe dus"),
        (&["-r", "identity", "--layers", "9"], "identity makes 4 to 6 layers of 3, not 9"),
        (&["-r", "stack", "--times", "0"], "would have 0 layers"),
        (&["-r", "stack", "--times", "99999999999"], "a model has 1 to 4096"),
        (&["-r", "none.toml"], "can not read the recipe none.toml"),
    ] {
        let message = error(&[&base[..], args].concat());
        assert!(message.contains(expected), "{message}");
    }
    fs::write(machine.dir.path().join("bad.toml"), "slices = [{ layers = [0, 4] }]").unwrap();
    assert!(error(&[&base[..], &["-r", "bad.toml"]].concat()).contains("is to be layer 3 of the base, which has layers 0 to 2"));

    let quantised = format!("{}/model.gguf", fixture("gguf/llama-q4_0"));
    let message = machine.run(&["upscale", "-m", &quantised, "-o", "x.gguf", "-r", "interleave"]).error();
    assert!(message.contains("is stored as Q4_0, which can not be scaled") && message.contains("--type bf16"), "{message}");
    let message = machine.run(&["upscale", "-m", &quantised, "-o", "x", "-r", "dus", "--drop", "1"]).error();
    assert!(message.contains("is stored as Q4_0, which the output can not hold: say --type f32, f16 or bf16"), "{message}");
    assert!(error(&["-m", &fixture("models/solar"), "-r", "dus"]).contains("joined by skip connections already"));
    assert!(error(&["-m", &fixture("models/gemma2"), "-r", "solar-pro"]).contains("those of gemma2 are not"));
    let gemma = format!("{}/model.gguf", fixture("gguf/gemma2"));
    let message = machine.run(&["upscale", "-m", &gemma, "-o", "x.gguf", "-r", "identity"]).error();
    assert!(message.contains("every other layer the window"), "{message}");
    let message = machine.run(&["upscale", "-m", &llama, "-o", "nowhere/x", "-r", "dus"]).error();
    assert!(message.contains("nowhere/x: "), "{message}");

    let mut left: Vec<_> = fs::read_dir(machine.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.retain(|name| name != "bad.toml" && name != "hf" && name != "own" && name != "cache" && name != "state");
    assert_eq!(left, [""; 0]);
}

#[test]
fn what_is_there_is_replaced_only_by_force_and_only_a_model() {
    let machine = Machine::new();
    let llama = fixture("models/llama");
    let args = ["upscale", "-m", &llama, "-r", "dus", "--drop", "1", "-o"];
    let with = |rest: &[&str]| machine.run(&[&args[..], rest].concat());
    with(&["deep"]).ok();
    let error = with(&["deep"]).error();
    assert!(error.contains("deep is there already and is not overwritten; --force replaces it"), "{error}");
    with(&["deep", "--force"]).ok();

    let home = machine.dir.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("letters"), "mine").unwrap();
    let error = with(&["home", "--force"]).error();
    assert!(error.contains("something else than a model"), "{error}");
    assert_eq!(fs::read(home.join("letters")).unwrap(), b"mine");
    let error = machine.run(&["upscale", "-m", "deep", "-r", "dus", "-o", "deep", "--force"]).error();
    assert!(error.contains("deep is, or holds, what the result is made of"), "{error}");
    let hidden =
        fs::read_dir(machine.dir.path()).unwrap().filter(|e| e.as_ref().unwrap().file_name().as_encoded_bytes()[0] == b'.');
    assert_eq!(hidden.count(), 0);
}

#[test]
fn lineage_finds_the_recipe() {
    let machine = Machine::new();
    let llama = fixture("models/llama");
    let sources = |b: &str| -> Vec<Value> {
        let report = json(&machine.run(&["lineage", &llama, b, "--json"]).ok());
        report["layers"].as_array().unwrap().iter().map(|layer| layer["source"].clone()).collect()
    };
    machine.run(&["upscale", "-m", &llama, "-r", "solar-pro", "-o", "solar"]).ok();
    assert_eq!(sources("solar"), [0, 1, 1, 1, 2]);
    machine.run(&["upscale", "-m", &llama, "-r", "interleave", "--layers", "6", "--type", "bf16", "-o", "twice"]).ok();
    assert_eq!(sources("twice"), [0, 0, 1, 1, 2, 2]);
    machine.run(&["upscale", "-m", &llama, "-r", "identity", "--layers", "6", "-o", "zero"]).ok();
    assert_eq!(sources("zero"), [0, 0, 1, 1, 2, 2]);
    // The same weights in the other format, and in blocks.
    assert_eq!(sources(&format!("{}/model.gguf", fixture("gguf/llama"))), [0, 1, 2]);

    let text = machine.run(&["lineage", &llama, "twice", "--svg", "a.svg", "--png", "a.png"]).ok();
    assert!(text.contains("scaled by 0.50") && text.contains("##"), "{text}");
    let text = machine.run(&["lineage", &llama, "zero"]).ok();
    assert!(text.contains("adds nothing"), "{text}");
    let text = machine.run(&["lineage", &llama, "solar"]).ok();
    assert!(text.contains("skip connections of B: 1 to 2, 1 to 3"), "{text}");
    assert!(fs::read_to_string(machine.dir.path().join("a.svg")).unwrap().ends_with("</svg>\n"));
    assert!(fs::read(machine.dir.path().join("a.png")).unwrap().starts_with(b"\x89PNG"));
    let error = machine.run(&["lineage", &llama, "twice", "--svg", "a.svg"]).error();
    assert!(error.contains("a.svg is there already"), "{error}");
    let error = machine.run(&["lineage", &llama, &fixture("models/gemma2")]).error();
    assert!(error.contains("of another shape"), "{error}");
    assert_eq!(machine.run(&["lineage", &llama, &llama, "--parts", "q_proj"]).code, Some(2));
}
