//! An S3 store in this process that serves a folder.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::IF_NONE_MATCH;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};

use crate::error::SandboxError;
use crate::s3_access::S3Access;

/// A store on 127.0.0.1 whose buckets are the folders in a directory. It stops when this value is dropped; the files stay.
///
/// It supports `If-None-Match`, but neither `If-Match` nor object versions. [`SeaweedFs`](crate::SeaweedFs) supports all.
#[derive(Debug)]
pub struct EmbeddedS3 {
    access: S3Access,
    server: JoinHandle<()>,
}

impl EmbeddedS3 {
    /// Serves `dir` with one bucket. Both are created if they do not exist.
    ///
    /// # Errors
    /// If the directory cannot be created, or no port is free.
    pub async fn start(dir: &Path) -> Result<Self, SandboxError> {
        fs::create_dir_all(dir.join(crate::s3_access::BUCKET))
            .map_err(SandboxError::io(format!("create a bucket in {}", dir.display())))?;
        let files = FileSystem::new(dir)
            .map_err(|error| SandboxError::Store { dir: dir.into(), reason: format!("{error:?}") })?;
        let listener =
            TcpListener::bind(("127.0.0.1", 0)).await.map_err(SandboxError::io("bind a port for the S3 store"))?;
        let address = listener.local_addr().map_err(SandboxError::io("get the port of the S3 store"))?;

        let access = S3Access::with_new_keys(format!("http://{address}"));
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(access.access_key.clone(), access.secret_key.clone()));
        let server = tokio::spawn(serve(listener, service.build()));
        tracing::debug!(endpoint = access.endpoint, "S3 store ready");
        Ok(Self { access, server })
    }

    /// The address of the store: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.access.endpoint
    }

    /// The bucket and the keys.
    pub fn access(&self) -> &S3Access {
        &self.access
    }

    /// Stops the store and closes its connections.
    pub async fn stop(mut self) {
        self.server.abort();
        // It ends with the error of the abort.
        let _ = (&mut self.server).await;
    }
}

impl Drop for EmbeddedS3 {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, service: S3Service) {
    let http = auto::Builder::new(TokioExecutor::new());
    // Held by requests with a condition: the service checks it before it writes, and two could both find no object.
    let conditional = Arc::new(Mutex::new(()));
    // Dropped, and so closed, with this task.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    // Otherwise the end of each response waits about 40 ms for the client's delayed ACK.
                    if let Err(error) = socket.set_nodelay(true) {
                        tracing::debug!(%error, "could not set TCP_NODELAY on an S3 connection");
                    }
                    let (service, conditional) = (service.clone(), Arc::clone(&conditional));
                    let service = service_fn(move |request: hyper::Request<Incoming>| {
                        let (service, conditional) = (service.clone(), Arc::clone(&conditional));
                        async move {
                            let has_condition = request.headers().contains_key(IF_NONE_MATCH);
                            let _alone = if has_condition { Some(conditional.lock().await) } else { None };
                            service.call(request.map(s3s::Body::from)).await
                        }
                    });
                    let connection = http.serve_connection(TokioIo::new(socket), service).into_owned();
                    connections.spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!(%error, "S3 connection ended with an error");
                        }
                    });
                }
                // Out of file descriptors, most likely: an immediate retry would spin.
                Err(error) => {
                    tracing::warn!(%error, "S3 store failed to accept a connection");
                    tokio::time::sleep(crate::process::POLL).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}
