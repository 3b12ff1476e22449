//! The order of listings that finds what a job is to warm. Decides only: pages come as arguments.
//!
//! A path may be a file or a folder, and S3 knows neither. So the first question is for keys that
//! begin with the path: if the path itself is a key, it comes first, for keys are listed in order.
//! Otherwise the folder under the path is listed, page by page.

use tenderfs_s3client::{Error, ListPage, ListRequest, ListWalk, ListedObject};

use crate::namespace::is_reachable;

/// Where a walk is.
pub(super) struct Walk {
    key: String,
    recursive: bool,
    step: Step,
}

enum Step {
    /// Is the path a file?
    File(ListRequest),
    /// The files of the folder.
    Folder(ListWalk),
    End,
}

/// A walk that cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum WalkError {
    /// The store's listing goes round in a circle.
    #[error(transparent)]
    Listing(#[from] Error),
    /// Nothing has this name.
    #[error("there is no file and no folder `{key}` in the bucket")]
    Nothing { key: String },
}

impl Walk {
    /// A walk of `key`, a prefix ending in `/` or nothing for a folder known to be one.
    pub(super) fn new(key: String, recursive: bool) -> Self {
        let step = if key.is_empty() || key.ends_with('/') {
            Step::Folder(folder(&key, recursive))
        } else {
            let prefix = key.clone();
            Step::File(ListRequest { prefix, keys_max: Some(1), ..ListRequest::default() })
        };
        Self { key, recursive, step }
    }

    /// The page to ask for now; `None` at the end.
    pub(super) fn request(&self) -> Option<&ListRequest> {
        match &self.step {
            Step::File(request) => Some(request),
            Step::Folder(walk) => Some(walk.request()),
            Step::End => None,
        }
    }

    /// Takes the answer to [`Self::request`] and gives the files in it.
    pub(super) fn arrived(&mut self, page: ListPage) -> Result<Vec<ListedObject>, WalkError> {
        match &mut self.step {
            Step::File(_) => {
                let file = page.objects.into_iter().find(|object| object.key == self.key);
                self.step = match &file {
                    Some(_) => Step::End,
                    None => Step::Folder(folder(&format!("{}/", self.key), self.recursive)),
                };
                Ok(file.into_iter().collect())
            }
            Step::Folder(walk) => {
                let is_first = walk.request().continuation.is_none();
                let is_empty = page.objects.is_empty() && page.common_prefixes.is_empty();
                if is_first && is_empty && page.next.is_none() && !self.key.is_empty() {
                    return Err(WalkError::Nothing { key: self.key.clone() });
                }
                let folder = walk.request().prefix.clone();
                if !walk.advance(&page)? {
                    self.step = Step::End;
                }
                // What ends in `/` marks a folder, and what cannot be a path is shown to nobody.
                let is_file = |object: &ListedObject| {
                    object.key.strip_prefix(&folder).is_some_and(is_reachable)
                };
                Ok(page.objects.into_iter().filter(is_file).collect())
            }
            Step::End => Ok(Vec::new()),
        }
    }

    /// Ends it here.
    pub(super) fn stop(&mut self) {
        self.step = Step::End;
    }
}

fn folder(prefix: &str, recursive: bool) -> ListWalk {
    ListWalk::new(ListRequest {
        prefix: prefix.to_owned(),
        delimiter: !recursive,
        ..ListRequest::default()
    })
}
