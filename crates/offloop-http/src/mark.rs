//! Marks the polls of every route with its name, so that the pulse can say which one blocks.
//!
//! A name is a method and a route's pattern, never a request's path: there are as many as routes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use axum::extract::MatchedPath;
use axum::http::{Method, Request, Response};
use http_body::Body as HttpBody;
use offloop_pulse::Name;
use tower_layer::Layer;
use tower_service::Service;

/// On an answer whose body is made while it is sent: the route that makes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(pub(crate) Name);

/// Methods that have names of their own; the others share one.
const METHODS: [Method; 5] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::HEAD,
];

type Names = [Name; METHODS.len() + 1];

/// Names by pattern; filled by the first request of each route.
#[derive(Clone, Debug, Default)]
pub(crate) struct MarkRoutes(Arc<RwLock<HashMap<Box<str>, Names>>>);

impl MarkRoutes {
    fn name(&self, method: &Method, pattern: &str) -> Name {
        let index = METHODS.iter().position(|known| known == method);
        let index = index.unwrap_or(METHODS.len());
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(names) = known.get(pattern) {
            return names[index];
        }
        drop(known);
        let mut names: Names = [Name::route(&format!("(other) {pattern}")); _];
        for (name, method) in names.iter_mut().zip(&METHODS) {
            *name = Name::route(&format!("{method} {pattern}"));
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(pattern.into(), names);
        names[index]
    }
}

impl<S> Layer<S> for MarkRoutes {
    type Service = Marked<S>;

    fn layer(&self, inner: S) -> Marked<S> {
        Marked {
            names: self.clone(),
            inner,
        }
    }
}

/// One route.
#[derive(Clone, Debug)]
pub(crate) struct Marked<S> {
    names: MarkRoutes,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Marked<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    S::Future: Send + 'static,
    R: HttpBody,
{
    type Response = Response<R>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let pattern = request.extensions().get::<MatchedPath>();
        let pattern = pattern.map_or("(unknown)", MatchedPath::as_str);
        let name = self.names.name(request.method(), pattern);
        let answer = self.inner.call(request);
        Box::pin(offloop_pulse::doing(name, async move {
            let mut answer = answer.await?;
            // What is whole already is not computed while it is sent.
            if answer.body().size_hint().exact().is_none() {
                answer.extensions_mut().insert(Mark(name));
            }
            Ok(answer)
        }))
    }
}
