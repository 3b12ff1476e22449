//! Whether an object meets the conditions of a request. Pure.

use s3s::dto::{ETag, ETagCondition, Timestamp};

use crate::storage::Object;

/// Conditions as the headers of their names state them.
#[expect(clippy::struct_field_names, reason = "they are the headers' names")]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Conditions<'a> {
    pub(super) if_match: Option<&'a ETagCondition>,
    pub(super) if_none_match: Option<&'a ETagCondition>,
    pub(super) if_modified_since: Option<&'a Timestamp>,
    pub(super) if_unmodified_since: Option<&'a Timestamp>,
}

/// What the conditions say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Proceed,
    /// 304 for a read.
    NotModified,
    /// 412.
    Failed,
}

impl Conditions<'_> {
    /// Whether nothing is demanded.
    pub(super) fn is_empty(&self) -> bool {
        self.if_match.is_none()
            && self.if_none_match.is_none()
            && self.if_modified_since.is_none()
            && self.if_unmodified_since.is_none()
    }

    /// In the order of RFC 9110, 13.2.2: ETags outweigh dates.
    pub(super) fn verdict(&self, object: &Object) -> Verdict {
        let modified = Timestamp::from(object.modified);
        let etag = ETag::Strong(object.etag.clone());
        match (self.if_match, self.if_unmodified_since) {
            (Some(ETagCondition::ETag(wanted)), _) if !wanted.strong_cmp(&etag) => {
                return Verdict::Failed;
            }
            (None, Some(date)) if modified > *date => return Verdict::Failed,
            _ => {}
        }
        match (self.if_none_match, self.if_modified_since) {
            (Some(ETagCondition::Any), _) => Verdict::NotModified,
            (Some(ETagCondition::ETag(known)), _) if known.weak_cmp(&etag) => Verdict::NotModified,
            (None, Some(date)) if modified <= *date => Verdict::NotModified,
            _ => Verdict::Proceed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::storage::Attributes;

    #[test]
    fn etags_outweigh_dates() {
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let attributes = Attributes { modified: Some(time(100)), ..Attributes::default() };
        let object = Object::new("abc".into(), attributes, time(0));
        let right = ETagCondition::ETag(ETag::Strong(object.etag.clone()));
        let wrong = ETagCondition::ETag(ETag::Strong("0".into()));
        let [before, same, after] = [99, 100, 101].map(|seconds| Timestamp::from(time(seconds)));
        let check = |if_match, if_none_match, if_modified_since, if_unmodified_since, expected| {
            let conditions =
                Conditions { if_match, if_none_match, if_modified_since, if_unmodified_since };
            assert_eq!(conditions.verdict(&object), expected, "{conditions:?}");
        };
        check(None, None, None, None, Verdict::Proceed);
        check(Some(&right), None, None, Some(&before), Verdict::Proceed);
        check(Some(&wrong), None, None, None, Verdict::Failed);
        check(Some(&ETagCondition::Any), None, None, None, Verdict::Proceed);
        check(None, None, None, Some(&before), Verdict::Failed);
        check(None, None, None, Some(&same), Verdict::Proceed);
        check(None, Some(&right), None, None, Verdict::NotModified);
        check(None, Some(&wrong), Some(&after), None, Verdict::Proceed);
        check(None, None, Some(&same), None, Verdict::NotModified);
        check(None, None, Some(&before), None, Verdict::Proceed);
        check(None, Some(&ETagCondition::Any), None, None, Verdict::NotModified);
        check(Some(&wrong), Some(&right), None, None, Verdict::Failed);
    }
}
