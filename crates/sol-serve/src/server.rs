//! Connections, routes, keys, shutdown.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use sol_engine::LanguageModel;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::error::{Error, Refused};
use crate::models::{Model, Models, Source};
use crate::patient::Patient;
use crate::{App, Options, chat, completions, embeddings, host, info, log, openapi, page, responses};

/// Bytes of a request's headers.
const HEADER_BYTES: usize = 64 << 10;
/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 1024;
/// For the last bytes of answers, once all are made.
const FLUSH: Duration = Duration::from_secs(2);
/// Pause after a connection could not be accepted: too many open files, as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a model has room for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Tokens that the KV cache holds, of all sequences together.
    pub kv_tokens: usize,
    /// Bytes that it takes.
    pub kv_bytes: u64,
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
    router: Router,
    drain: Duration,
}

impl Server {
    /// Listens for one model; port 0 takes a free one. The address is taken before the model is asked anything.
    pub async fn bind(host: &str, port: u16, model: LanguageModel, options: &Options) -> Result<Self, Error> {
        Self::bind_many(host, port, vec![Source::ready(options.names.clone(), model)], 1, options).await
    }

    /// The same for several models, at least one; `keep` of them are in memory at a time. The first is loaded now, unless it is
    /// there, and answers requests that name none.
    pub async fn bind_many(host: &str, port: u16, sources: Vec<Source>, keep: usize, options: &Options) -> Result<Self, Error> {
        let failed = |source| Error::Listen { address: format!("{host}:{port}"), source };
        let listener = TcpListener::bind((host, port)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let app = Arc::new(App::new(Models::new(sources, keep, options.queue)?, options));
        app.models.load_first().await?;
        let local = address.ip().is_loopback() && options.api_key.is_none();
        let router = router(Arc::clone(&app), &options.cors, local)?;
        Ok(Self { listener, address, app, router, drain: options.drain })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Room in the first model.
    pub fn room(&self) -> Room {
        let room = |model: Arc<Model>| Room { context: model.context, kv_tokens: model.kv.0, kv_bytes: model.kv.1 };
        self.app.models.first_ready().map(room).unwrap_or_default()
    }

    /// Serves until `shutdown`; then new requests are refused, and running ones may end in [`Options::drain`]. Whether all did.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> bool {
        let Self { listener, app, router, drain, .. } = self;
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let (graceful, mut connections) = (GracefulShutdown::new(), JoinSet::new());
        let mut shutdown = std::pin::pin!(shutdown);
        let mut ended = std::pin::pin!(ended(&app, drain));
        let mut going = false;
        let all = loop {
            let accept = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (listener.accept().await, permit)
            };
            tokio::select! {
                biased;
                () = &mut shutdown, if !going => {
                    going = true;
                    app.draining.store(true, Ordering::SeqCst);
                }
                all = &mut ended, if going => break all,
                Some(_) = connections.join_next() => {}
                (accepted, permit) = accept => {
                    let Ok((stream, _)) = accepted else {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    };
                    // Tokens are small, and each should be seen at once.
                    let _ = stream.set_nodelay(true);
                    let mut http = hyper::server::conn::http1::Builder::new();
                    http.timer(TokioTimer::new()).header_read_timeout(app.patience).max_buf_size(HEADER_BYTES);
                    let service = TowerToHyperService::new(router.clone());
                    let connection = graceful.watch(http.serve_connection(TokioIo::new(Patient::new(stream, app.patience)), service));
                    connections.spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!("a connection broke: {error}");
                        }
                        drop(permit);
                    });
                }
            }
        };
        drop(listener);
        if all {
            let _ = tokio::time::timeout(FLUSH, graceful.shutdown()).await;
        }
        // Those who are still here lose their streams, which ends what runs for them.
        connections.shutdown().await;
        all
    }
}

/// Waits until no request runs, but no longer than `drain`; whether none does.
async fn ended(app: &App, drain: Duration) -> bool {
    let idle = async {
        loop {
            let told = app.idle.notified();
            if app.active.load(Ordering::SeqCst) == 0 {
                return;
            }
            told.await;
        }
    };
    tokio::time::timeout(drain, idle).await.is_ok()
}

fn router(app: Arc<App>, cors: &[String], local: bool) -> Result<Router, Error> {
    let router = Router::new()
        .route("/", get(page::index))
        .route("/assets/{*name}", get(page::asset))
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/responses", post(responses::responses))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/models", get(info::models))
        .route("/v1/models/{*id}", get(info::model))
        .route("/v1/loads", get(info::loads))
        .route("/loads", get(info::loads))
        .route("/tokenize", post(info::tokenize))
        .route("/detokenize", post(info::detokenize))
        .route("/health", get(info::health))
        .route("/ready", get(info::ready))
        .route("/version", get(info::version))
        .route("/metrics", get(info::metrics))
        .route("/model_info", get(info::model_info))
        .route("/server_info", get(info::server_info))
        .route("/get_model_info", get(info::model_info))
        .route("/get_server_info", get(info::server_info))
        .route("/openapi.json", get(openapi::openapi))
        .fallback(info::nowhere)
        .method_not_allowed_fallback(info::wrong_method)
        .layer(from_fn_with_state(Arc::clone(&app), authorise))
        .with_state(app);
    let router = match origins(cors)? {
        Some(origins) => router.layer(
            CorsLayer::new()
                .allow_origin(origins)
                .allow_methods([Method::GET, Method::POST])
                .allow_headers(AllowHeaders::mirror_request())
                .expose_headers([log::REQUEST_ID]),
        ),
        None => router,
    };
    let router = if local { router.layer(from_fn(host::check)) } else { router };
    Ok(router.layer(from_fn(log::record)))
}

/// Whose pages may ask.
fn origins(cors: &[String]) -> Result<Option<AllowOrigin>, Error> {
    if cors.iter().any(|origin| origin == "*") {
        return Ok(Some(AllowOrigin::any()));
    }
    let origin = |origin: &String| {
        let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        let bare = rest.is_some_and(|host| !host.is_empty() && !host.contains('/'));
        HeaderValue::from_str(origin).ok().filter(|_| bare).ok_or_else(|| Error::Origin { origin: origin.clone() })
    };
    let list = cors.iter().map(origin).collect::<Result<Vec<_>, _>>()?;
    Ok((!list.is_empty()).then(|| AllowOrigin::list(list)))
}

/// Paths that tell nothing and are asked by machines that have no key.
pub(crate) const OPEN: [&str; 2] = ["/health", "/ready"];

/// Lets requests with the key through, and counts those that are refused.
async fn authorise(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let allowed = match &app.api_key {
        Some(key) if !OPEN.contains(&request.uri().path()) && !page::is_page(request.uri().path()) => {
            let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
            let (scheme, given) = given.split_at_checked(7).unwrap_or_default();
            scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(key.as_bytes().ct_eq(given))
        }
        _ => true,
    };
    let response = if allowed {
        next.run(request).await
    } else {
        let message = "no or a wrong API key: send it as Authorization: Bearer KEY";
        Refused::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key").into_response()
    };
    if response.status().is_client_error() || response.status().is_server_error() {
        app.refused.fetch_add(1, Ordering::Relaxed);
    }
    response
}
