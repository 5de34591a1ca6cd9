//! `shoal encode`, in process and over QUIC.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use serde_json::Value;

use super::{Home, MODEL, Ran, Serving, golden, golden_cases};

fn floats(value: &Value) -> Vec<f64> {
    let values = value.as_array().expect("an array");
    values.iter().map(|value| value.as_f64().expect("a number")).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn texts_become_the_golden_vectors_in_order() {
    let home = Home::new();
    let golden = golden_cases(MODEL);
    let whole = |case: &&Value| case["truncated"] == false;
    let cases: Vec<&Value> = golden["cases"].as_array().expect("cases").iter().filter(whole).collect();
    let texts: Vec<&str> = cases.iter().filter_map(|case| case["text"].as_str()).collect();
    let args: Vec<&str> = ["--dtype", "f32", "--"].into_iter().chain(texts.iter().copied()).collect();
    let ran = home.encode(&args).expect(0);
    let lines = ran.lines();
    assert_eq!(lines.len(), cases.len());
    for (index, (line, case)) in lines.iter().zip(&cases).enumerate() {
        assert_eq!(line["index"], index);
        assert_eq!(line["tokens"], case["ids"].as_array().expect("ids").len(), "{case}");
        let similar = cosine(&floats(&line["dense"]), &floats(&case["vector"]));
        assert!(similar > 0.99999, "{similar}: {}", case["text"]);
        assert_eq!(line.get("truncated"), None);
    }
    assert!(ran.err.contains("tokens/s on cpu"), "{}", ran.err);
}

#[test]
fn a_long_text_fails_alone_unless_it_may_be_cut() {
    let home = Home::new();
    let long = "river ".repeat(100);
    let ran = home.encode(&["--", "short", &long, "short"]).expect(4);
    let lines = ran.lines();
    let error = &lines[1]["error"];
    assert_eq!(
        (&error["code"], &error["limit"], &lines[1]["index"]),
        (&"too_long".into(), &48.into(), &1.into())
    );
    assert!(error["tokens"].as_u64() > Some(100), "{error}");
    assert_eq!(lines[0]["dense"], lines[2]["dense"], "the others proceed");
    assert!(ran.out.lines().all(|line| line.starts_with("{\"index\":")), "{}", ran.out);

    let cut = home.encode(&["--truncate", "--", &long]).expect(0).lines();
    assert_eq!((&cut[0]["tokens"], &cut[0]["truncated"]), (&48.into(), &true.into()));
}

#[test]
fn files_are_split_as_the_contract_says() {
    let home = Home::new();
    let file = home.write("in.txt", "one\r\n\ntwo words");
    let path = file.display().to_string();
    let lines = home.encode(&["--input", &path]).expect(0).lines();
    let tokens: Vec<_> = lines.iter().map(|line| line["tokens"].as_u64()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(tokens[1], Some(2), "the empty text is its two special tokens");

    let model = golden(MODEL).display().to_string();
    let args = ["encode", "--model", &model, "--threads", "1", "--input", "-"];
    let from_stdin = home.run_with_input(args, b"one\n\ntwo words\n").expect(0).lines();
    assert_eq!(from_stdin, lines);

    let empty = home.write("empty.txt", "").display().to_string();
    assert_eq!(home.encode(&["--input", &empty]).expect(0).out, "");

    let json = home.write("in.jsonl", "\"one\"\n{\"text\":\"\"}\n{\"text\":\"two words\",\"id\":1}\n");
    let json = json.display().to_string();
    let from_json = home.encode(&["--jsonl", "--input", &json]).expect(0).lines();
    assert_eq!(from_json, lines);

    let missing = home.encode(&["--input", "/nonexistent/in.txt"]).expect(4);
    assert!(missing.err.contains("/nonexistent/in.txt"), "{}", missing.err);
}

#[test]
fn bad_utf8_names_its_line_and_keeps_what_came_before() {
    let home = Home::new();
    let file = home.write("in.txt", b"one\ntwo\nth\xffree\n").display().to_string();
    let ran = home.encode(&["--input", &file]).expect(4);
    assert_eq!(ran.lines().len(), 2);
    assert!(ran.err.contains("in.txt:3: not valid UTF-8"), "{}", ran.err);
}

#[test]
fn a_slow_writer_gets_each_answer_before_its_next_line() {
    let home = Home::new();
    let model = golden(MODEL).display().to_string();
    let mut command = home.shoal(["encode", "--model", &model, "--threads", "1", "--input", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("runs");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    for index in 0..3 {
        stdin.write_all(b"a line\n").expect("writes");
        let mut line = String::new();
        stdout.read_line(&mut line).expect("reads");
        let line: Value = serde_json::from_str(&line).expect("an answer before the next line");
        assert_eq!(line["index"], index);
    }
    drop(stdin);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

/// The largest memory that a process has held so far, in KiB.
fn memory_max_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a high-water mark");
    line.trim().trim_end_matches(" kB").parse().expect("KiB")
}

#[test]
fn memory_does_not_grow_with_the_input() {
    let home = Home::new();
    let model = golden(MODEL).display().to_string();
    let args = ["encode", "--model", &model, "--truncate", "--input", "-"];
    let mut command = home.shoal(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("runs");
    let mut stdin = child.stdin.take().expect("piped");
    let mut answers = BufReader::new(child.stdout.take().expect("piped")).lines();
    let pid = child.id();
    // The tokenizer reads all of a text and the model its first 48 tokens: many bytes for little work.
    let line = format!("{}\n", "abcdefghij".repeat(100));
    let mut after = |texts: usize| {
        std::thread::scope(|scope| {
            scope.spawn(|| (0..texts).for_each(|_| stdin.write_all(line.as_bytes()).expect("writes")));
            assert_eq!(answers.by_ref().take(texts).filter(Result::is_ok).count(), texts);
        });
        memory_max_kib(pid)
    };
    let settled = after(2000);
    let grown = after(4000) - settled;
    assert!(grown < 2 << 10, "{grown} KiB more for 4 MB of texts");
    drop(stdin);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn a_closed_pipe_ends_silently() {
    let home = Home::new();
    let file = home.write("in.txt", "a line of text\n".repeat(20_000)).display().to_string();
    let model = golden(MODEL).display().to_string();
    let mut command = home.shoal(["encode", "--model", &model, "--threads", "1", "--input", &file]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    stdout.read_line(&mut String::new()).expect("reads");
    drop(stdout);
    let mut err = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut err).expect("reads");
    assert_eq!((child.wait().expect("ends").code(), err.as_str()), (Some(0), ""));
}

#[test]
fn an_interrupt_ends_a_call_with_code_130_and_without_a_word() {
    let home = Home::new();
    let model = golden(MODEL).display().to_string();
    let mut command = home.shoal(["encode", "--model", &model, "--threads", "1", "--input", "-"]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("runs");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"a line\n").expect("writes");
    let mut answer = BufReader::new(child.stdout.take().expect("piped"));
    answer.read_line(&mut String::new()).expect("reads");
    let pid = child.id().to_string();
    let sent = std::process::Command::new("kill").args(["-INT", &pid]).status().expect("runs");
    assert!(sent.success());
    let ran = Ran::of(child.wait_with_output().expect("ends")).expect(130);
    assert_eq!(ran.err, "");
}

#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    let home = Home::new();
    let full = std::fs::File::options().write(true).open("/dev/full").expect("opens");
    let model = golden(MODEL).display().to_string();
    let mut command = home.shoal(["encode", "--model", &model, "--", "text"]);
    let ran = Ran::of(command.stdout(full).output().expect("runs")).expect(5);
    assert!(ran.err.contains("cannot write to standard output"), "{}", ran.err);
}

#[test]
fn an_argument_that_is_not_utf8_is_bad_input() {
    let home = Home::new();
    let model = golden(MODEL).display().to_string();
    let mut command = home.shoal(["encode", "--model", &model, "--", "good"]);
    let ran = Ran::of(command.arg(OsStr::from_bytes(b"b\xffd")).output().expect("runs")).expect(4);
    assert!(ran.err.contains("text 2 on the command line"), "{}", ran.err);
}

#[test]
fn every_output_dtype_follows_from_the_f32_values() {
    let home = Home::new();
    let of = |dtype| {
        let lines =
            home.encode(&["--dtype", "f32", "--output-dtype", dtype, "--", "the river"]).expect(0).lines();
        floats(&lines[0]["dense"])
    };
    let exact = of("f32");
    let close = |found: &[f64], expected: &dyn Fn(f64) -> f64, within: f64| {
        assert_eq!(found.len(), exact.len());
        for (found, exact) in found.iter().zip(&exact) {
            assert!((found - expected(*exact)).abs() <= within, "{found} for {exact}");
        }
    };
    close(&of("f16"), &|value| value, 1e-3);
    close(&of("int8"), &|value| 127.0 * value, 0.501);
    close(&of("uint8"), &|value| 127.0 * value + 128.0, 0.501);
    let bits = of("binary");
    assert_eq!(bits.len(), exact.len().div_ceil(8));
    let first = exact[..8].iter().fold(0.0, |byte, value| byte * 2.0 + f64::from(u8::from(*value > 0.0)));
    assert_eq!(bits[0].to_bits(), f64::to_bits(first));
}

#[test]
fn prompts_are_put_in_front() {
    let home = Home::new();
    let golden = golden_cases(MODEL);
    let prompt = &golden["prompts"][0];
    let name = prompt["prompt_name"].as_str().expect("a name");
    let text = prompt["text"].as_str().expect("a text");
    let lines = home.encode(&["--dtype", "f32", "--prompt-name", name, "--", text]).expect(0).lines();
    let similar = cosine(&floats(&lines[0]["dense"]), &floats(&prompt["vector"]));
    assert!(similar > 0.99999, "{similar}");
    let unknown = home.encode(&["--prompt-name", "nonexistent", "--", "x"]).expect(3);
    assert!(unknown.err.trim_end().ends_with("it has passage, query"), "{}", unknown.err);
}

#[test]
fn what_model_or_device_lack_is_an_error_and_never_something_else() {
    let home = Home::new();
    let sparse = home.encode(&["--output", "dense,sparse", "--", "x"]).expect(3);
    assert!(sparse.err.contains("sparse was asked for and the model gives dense"), "{}", sparse.err);
    let dtype = home.encode(&["--dtype", "int8", "--", "x"]).expect(3);
    assert!(dtype.err.contains("int8"), "{}", dtype.err);
    let device = home.encode(&["--device", "cuda:0", "--", "x"]).expect(3);
    assert!(device.err.contains("no GPU: libcuda.so.1 not found"), "{}", device.err);
    let missing = home.run(["encode", "--", "x"]).expect(3);
    assert!(missing.err.contains("shoal pull all-minilm-l6-v2"), "{}", missing.err);
    let unknown = home.run(["encode", "--model", "gpt-9", "--", "x"]).expect(3);
    assert!(unknown.err.contains("gpt-9"), "{}", unknown.err);
    for case in [&sparse, &dtype, &device, &missing, &unknown] {
        assert_eq!(case.out, "");
    }
    let portable = home.encode(&["--cpu-isa", "portable", "--dtype", "f32", "--", "the river"]).expect(0);
    assert!(portable.err.contains("cpu portable"), "{}", portable.err);
}

#[test]
fn a_bare_encoder_is_pooled_by_the_mean_with_a_warning() {
    let home = Home::new();
    let model = golden("bare-f16-gamma").display().to_string();
    let ran = home.run(["encode", "--model", &model, "--", "the river"]).expect(0);
    assert!(ran.err.contains("assuming the mean"), "{}", ran.err);
    assert_eq!(ran.lines().len(), 1);
}

#[test]
fn a_call_that_fails_half_way_prints_what_was_answered() {
    let home = Home::new();
    home.run(["mesh", "init"]).expect(0);
    // Two seconds of work.
    let config = home.write(
        "node.toml",
        "version = 1\n[http]\naddr = \"off\"\n[quic]\naddr = \"127.0.0.1:0\"\n[device]\ntokens_per_s_max = 5000\n",
    );
    let config = config.display().to_string();
    let model = golden(MODEL).display().to_string();
    let serving = Serving::start(&home, ["--config", &config, "--threads", "1", "--preload", &model]);
    let quic = serving.address("quic");
    let file = home.write("in.txt", "a line of text\n".repeat(1500)).display().to_string();
    let args = ["encode", "--mesh", &quic, "--model", MODEL, "--deadline", "3s", "--input", &file];
    let mut command = home.shoal(args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let first = lines.next().expect("an answer").expect("reads");
    serving.signal("-KILL");
    let lines: Vec<_> = std::iter::once(first).chain(lines.map(|line| line.expect("reads"))).collect();
    assert!(lines.len() < 1500);
    for (index, line) in lines.iter().enumerate() {
        let line: Value = serde_json::from_str(line).expect("a whole line");
        assert_eq!((&line["index"], line["dense"].is_array()), (&index.into(), true));
    }
    let ran = Ran::of(child.wait_with_output().expect("ends")).expect(5);
    let told = format!("; {} of 1500 texts have no answer", 1500 - lines.len());
    assert!(ran.err.contains(&told), "{told}: {}", ran.err);
}

#[test]
fn a_deadline_that_passes_while_the_input_waits_is_code_five() {
    let home = Home::new();
    let model = golden(MODEL).display().to_string();
    let args = ["encode", "--model", &model, "--threads", "1", "--deadline", "1s", "--input", "-"];
    let mut command = home.shoal(args);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().expect("runs");
    let stdin = child.stdin.take().expect("piped");
    let ran = Ran::of(child.wait_with_output().expect("ends")).expect(5);
    drop(stdin);
    let told = "0 of the 0 texts read so far have no answer, nor has the rest of the input";
    assert!(ran.err.contains(told), "{}", ran.err);
}

#[test]
fn the_same_texts_over_quic_give_the_same_bits() {
    let home = Home::new();
    home.run(["mesh", "init"]).expect(0);
    let model = golden(MODEL).display().to_string();
    let args =
        ["--http", "off", "--quic", "127.0.0.1:0", "--dtype", "f32", "--threads", "1", "--preload", &model];
    let serving = Serving::start(&home, args);
    let quic = serving.address("quic");
    let texts =
        home.write("in.txt", "one\ntwo words\n\nthe river runs south\n".repeat(700)).display().to_string();
    let remote = home.run(["encode", "--mesh", &quic, "--model", MODEL, "--input", &texts]).expect(0);
    let local = home.encode(&["--dtype", "f32", "--input", &texts]).expect(0);
    assert_eq!(remote.out, local.out);
    assert_eq!(remote.lines().len(), 2800);

    let path = home.run(["encode", "--mesh", &quic, "--model", "/etc", "--", "x"]).expect(3);
    assert!(path.err.contains("/etc"), "a path is no name on another machine: {}", path.err);
    let f16 = home.run(["encode", "--mesh", &quic, "--model", MODEL, "--dtype", "bf16", "--", "x"]).expect(3);
    assert_eq!(f16.out, "", "{}", f16.err);
    home.run(["encode", "--mesh", &quic, "--threads", "2", "--", "x"]).expect(2);
}

#[test]
fn nobody_there_is_code_five() {
    let home = Home::new();
    home.run(["mesh", "init"]).expect(0);
    let ran = home.run(["encode", "--mesh", "127.0.0.1:1", "--", "x"]).expect(5);
    assert!(ran.err.contains("127.0.0.1:1"), "{}", ran.err);
    let serving = Serving::start(&home, ["--http", "off", "--quic", "127.0.0.1:0"]);
    let quic = serving.address("quic");
    let stranger = Home::new();
    stranger.run(["mesh", "init"]).expect(0);
    let refused = stranger.run(["encode", "--mesh", &quic, "--", "x"]).expect(3);
    assert!(refused.err.contains("not a node of this mesh"), "{}", refused.err);
    let no_identity =
        home.run(["encode", "--mesh", "127.0.0.1:1", "--identity", "/nonexistent", "--", "x"]).expect(3);
    assert!(no_identity.err.contains("/nonexistent"), "{}", no_identity.err);
}

#[test]
fn the_summary_can_be_json() {
    let home = Home::new();
    let ran = home.encode(&["--json", "--", "one", "two"]).expect(0);
    let summary: Value = serde_json::from_str(ran.err.trim()).expect("JSON on stderr");
    assert_eq!((&summary["texts"], &summary["failed"]), (&2.into(), &0.into()));
    assert!(summary["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{summary}");
}
