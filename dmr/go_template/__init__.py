"""Go text/template, as far as model templates use it. A leaf: it knows nothing of models or requests."""

from dmr.go_template.evaluation import Budget
from dmr.go_template.functions import GoTemplateError
from dmr.go_template.template import GoTemplate

__all__ = ["Budget", "GoTemplate", "GoTemplateError"]
