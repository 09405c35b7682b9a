//! The chat page's files: how they are served, and that nothing else is.

use serde_json::json;
use sol_serve::Options;

use crate::support::{Running, chat_tiny, raw};

/// The addresses that the page loads.
fn loaded(html: &str) -> Vec<String> {
    let starts = html.match_indices("\"./assets/").map(|(at, _)| &html[at + 2..]);
    starts.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

#[test]
fn the_page_loads_from_its_own_server_alone() {
    let server = Running::tiny(1);
    let page = server.get("/");
    assert_eq!((page.status, page.headers["content-type"].to_str().unwrap()), (200, "text/html; charset=utf-8"));
    assert_eq!(page.headers["cache-control"], "no-cache");
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    for part in ["default-src 'none'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    let assets = loaded(&page.text);
    assert!(assets.len() >= 2 && !page.text.contains("src=\"http"), "{}", page.text);
    for path in &assets {
        let asset = server.get(path);
        assert_eq!(asset.status, 200, "{path}");
        assert_eq!(asset.headers["cache-control"], "public, max-age=31536000, immutable");
        let kind = if path.ends_with(".js") { "text/javascript; charset=utf-8" } else { "text/css; charset=utf-8" };
        assert_eq!(
            (&asset.headers["content-type"], &asset.headers["x-content-type-options"]),
            (&kind.parse().unwrap(), &"nosniff".parse().unwrap())
        );
        // Who has it is not sent it again.
        let tag = asset.headers["etag"].to_str().unwrap();
        for known in [tag.to_owned(), format!("\"other\", W/{tag}"), "*".into()] {
            let again = server.send("GET", path, &[("if-none-match", &known)], b"");
            assert_eq!((again.status, again.text.as_str(), again.headers["etag"].to_str().unwrap()), (304, "", tag));
        }
        assert_eq!(server.send("GET", path, &[("if-none-match", "\"other\"")], b"").status, 200);
    }
    let head = server.send("HEAD", "/", &[], b"");
    assert_eq!((head.status, head.headers["content-length"].to_str().unwrap()), (200, page.text.len().to_string().as_str()));
    assert_eq!(server.send("POST", "/", &[], b"{}").status, 405);
}

#[test]
fn tricks_with_paths_find_nothing() {
    let server = Running::tiny(1);
    let long = format!("/assets/{}", "a/".repeat(20_000));
    let huge = format!("/{}", "a".repeat(200_000));
    let tricks = [
        "/../",
        "/assets/",
        "/assets/..",
        "/assets/../index.html",
        "/assets/../../Cargo.toml",
        "/assets/%2e%2e/index.html",
        "/assets/..%2findex.html",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/assets//etc/passwd",
        "/assets/%00",
        "/assets/\0",
        "/assets/%ff%fe",
        "/assets/\\..\\x",
        "/assets/....//index.html",
        "//assets/index.html",
        "/index.html",
        "/assets/C:\\x",
        "/assets/index.js%00.css",
        &long,
        &huge,
    ];
    for path in tricks {
        let answer =
            raw(server.address, format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes());
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(["400", "404", "414", "431"].contains(&status), "{}: {answer}", &path[..path.len().min(60)]);
        assert!(!answer.contains("<script"), "{answer}");
    }
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn the_page_is_open_and_what_it_asks_is_not() {
    let server = Running::start(chat_tiny(1), Options { api_key: Some("secret".into()), ..Options::new("tiny") });
    let page = server.get("/");
    assert_eq!(page.status, 200);
    for path in loaded(&page.text) {
        assert_eq!(server.get(&path).status, 200);
    }
    assert_eq!(server.get("/assets/none").status, 404);
    for path in ["/v1/models", "/metrics", "/index.html", "/assets", "//"] {
        assert_eq!(server.get(path).status, 401, "{path}");
    }
    let key = [("authorization", "Bearer secret")];
    assert_eq!(server.send("GET", "/v1/models", &key, b"").ok()["data"][0]["system_prompt"], json!(true));
}
