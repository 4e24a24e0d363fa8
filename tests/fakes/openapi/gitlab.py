"""What GitLab's REST API takes and answers on the routes that we use, written by hand from its documentation.

GitLab publishes no document that could be sliced: the generated one leaves the bodies of notes and uploads untyped.
Each entry names the page that it was written from. Only fields that the page promises are required.
"""

from typing import Any

_TEXT = {"type": "string"}
_ID = {"type": "integer", "minimum": 1}
_USER = {
    "type": "object",
    "required": ["id", "username", "name", "state"],
    "properties": {"id": _ID, "username": _TEXT},
}
_NOTE = {
    "type": "object",
    "required": [
        "id",
        "body",
        "author",
        "created_at",
        "updated_at",
        "system",
        "noteable_iid",
        "noteable_type",
        "resolvable",
    ],
    "properties": {"id": _ID, "body": _TEXT, "author": _USER, "system": {"type": "boolean"}, "noteable_iid": _ID},
}
_MERGE_REQUEST = {
    "type": "object",
    "required": [
        "id",
        "iid",
        "state",
        "title",
        "sha",
        "source_branch",
        "target_branch",
        "source_project_id",
        "target_project_id",
        "author",
        "draft",
        "web_url",
    ],
    "properties": {
        "iid": _ID,
        "state": {"enum": ["opened", "closed", "locked", "merged"]},
        "sha": {"type": ["string", "null"]},
        "source_project_id": {"type": ["integer", "null"]},
        "target_project_id": _ID,
        "author": _USER,
        "draft": {"type": "boolean"},
        "web_url": _TEXT,
    },
}
_BODY = {
    "type": "object",
    "required": ["body"],
    "additionalProperties": False,
    "properties": {"body": {"type": "string", "minLength": 1, "maxLength": 1_000_000}},
}
_STATE = {"enum": ["pending", "running", "success", "failed", "canceled", "skipped"]}
_PAGE = {"page": r"[1-9][0-9]*", "per_page": r"[1-9][0-9]?|100"}

ROUTES: dict[tuple[str, str], dict[str, Any]] = {
    # https://docs.gitlab.com/api/users/#get-the-current-user
    ("GET", "/user"): {"answers": {200: _USER}},
    # https://docs.gitlab.com/api/users/#list-all-users
    ("GET", "/users"): {"query": {"username": r".+"}, "answers": {200: {"type": "array", "items": _USER}}},
    # https://docs.gitlab.com/api/personal_access_tokens/#get-details-on-a-personal-access-token
    ("GET", "/personal_access_tokens/self"): {
        "answers": {
            200: {
                "type": "object",
                "required": ["id", "name", "revoked", "scopes", "user_id", "active", "expires_at"],
                "properties": {"scopes": {"type": "array", "items": _TEXT}, "expires_at": {"type": ["string", "null"]}},
            }
        }
    },
    # https://docs.gitlab.com/api/projects/#get-a-single-project
    ("GET", "/projects/{id}"): {
        "answers": {
            200: {
                "type": "object",
                "required": ["id", "path_with_namespace", "visibility", "permissions"],
                "properties": {
                    "visibility": {"enum": ["private", "internal", "public"]},
                    "permissions": {"type": "object"},
                },
            }
        }
    },
    # https://docs.gitlab.com/api/protected_branches/#get-a-single-protected-branch-or-wildcard-protected-branch
    ("GET", "/projects/{id}/protected_branches/{name}"): {
        "answers": {200: {"type": "object", "required": ["name", "push_access_levels", "allow_force_push"]}}
    },
    # https://docs.gitlab.com/api/merge_requests/#list-project-merge-requests
    ("GET", "/projects/{id}/merge_requests"): {
        "query": {**_PAGE, "state": r"opened|closed|locked|merged|all"},
        "answers": {200: {"type": "array", "items": _MERGE_REQUEST}},
    },
    # https://docs.gitlab.com/api/merge_requests/#get-single-mr
    ("GET", "/projects/{id}/merge_requests/{iid}"): {"answers": {200: _MERGE_REQUEST}},
    # https://docs.gitlab.com/api/commits/#list-merge-requests-associated-with-a-commit
    ("GET", "/projects/{id}/repository/commits/{sha}/merge_requests"): {
        "query": _PAGE,
        "answers": {200: {"type": "array", "items": _MERGE_REQUEST}},
    },
    # https://docs.gitlab.com/api/notes/#list-all-merge-request-notes
    ("GET", "/projects/{id}/merge_requests/{iid}/notes"): {
        "query": {**_PAGE, "sort": r"asc|desc", "order_by": r"created_at|updated_at"},
        "answers": {200: {"type": "array", "items": _NOTE}},
    },
    # https://docs.gitlab.com/api/notes/#create-new-merge-request-note
    ("POST", "/projects/{id}/merge_requests/{iid}/notes"): {"body": _BODY, "answers": {201: _NOTE}},
    # https://docs.gitlab.com/api/notes/#modify-existing-merge-request-note
    ("PUT", "/projects/{id}/merge_requests/{iid}/notes/{note}"): {"body": _BODY, "answers": {200: _NOTE}},
    # https://docs.gitlab.com/api/notes/#delete-a-merge-request-note
    ("DELETE", "/projects/{id}/merge_requests/{iid}/notes/{note}"): {"answers": {204: None}},
    # https://docs.gitlab.com/api/commits/#set-commit-pipeline-status
    ("POST", "/projects/{id}/statuses/{sha}"): {
        "body": {
            "type": "object",
            "required": ["state"],
            "additionalProperties": False,
            "properties": {
                "state": _STATE,
                "name": _TEXT,
                "target_url": {"type": "string", "maxLength": 255},
                "description": {"type": "string", "maxLength": 255},
                "pipeline_id": _ID,
                "ref": _TEXT,
            },
        },
        "answers": {
            201: {"type": "object", "required": ["id", "sha", "status", "name"], "properties": {"status": _STATE}}
        },
    },
    # https://docs.gitlab.com/api/commits/#list-the-statuses-of-a-commit
    ("GET", "/projects/{id}/repository/commits/{sha}/statuses"): {
        "query": _PAGE,
        "answers": {
            200: {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["id", "sha", "status", "name", "target_url", "description"],
                    "properties": {"id": _ID, "status": _STATE, "name": _TEXT, "pipeline_id": _ID},
                },
            }
        },
    },
    # https://docs.gitlab.com/api/jobs/#list-all-jobs-for-a-pipeline
    ("GET", "/projects/{id}/pipelines/{pipeline}/jobs"): {
        "query": _PAGE,
        "answers": {
            200: {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["id", "name", "status", "stage"],
                    "properties": {
                        "id": _ID,
                        "name": _TEXT,
                        "status": _TEXT,
                        "artifacts_expire_at": {"type": ["string", "null"]},
                        "artifacts_file": {
                            "type": "object",
                            "required": ["filename", "size"],
                            "properties": {"filename": _TEXT, "size": {"type": "integer"}},
                        },
                    },
                },
            }
        },
    },
    # https://docs.gitlab.com/api/job_artifacts/#download-job-artifacts-by-job-id
    ("GET", "/projects/{id}/jobs/{job}/artifacts"): {"answers": {200: "file"}},
    # https://docs.gitlab.com/api/project_markdown_uploads/#upload-a-file
    ("POST", "/projects/{id}/uploads"): {
        "body": "multipart",
        "answers": {201: {"type": "object", "required": ["id", "alt", "url", "full_path", "markdown"]}},
    },
    # https://docs.gitlab.com/api/members/#get-a-member-of-a-group-or-project-including-inherited-and-invited-members
    ("GET", "/projects/{id}/members/all/{user}"): {
        "answers": {
            200: {
                "type": "object",
                "required": ["id", "username", "state", "access_level"],
                "properties": {"access_level": {"enum": [0, 5, 10, 15, 20, 30, 40, 50]}},
            }
        }
    },
}
