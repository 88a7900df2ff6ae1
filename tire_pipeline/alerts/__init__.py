"""Messages to people: Slack where it is configured, the log where it is not."""

from __future__ import annotations

import logging

from slack_sdk.errors import SlackClientError
from slack_sdk.http_retry.builtin_handlers import ConnectionErrorRetryHandler, RateLimitErrorRetryHandler
from slack_sdk.webhook import WebhookClient

from tire_pipeline.errors import ServiceUnavailable
from tire_pipeline.settings import Settings

log = logging.getLogger(__name__)
TEXT_MAX = 3000


def send(settings: Settings, text: str) -> bool:
    """Post `text` (Slack's mrkdwn) to the webhook; True when Slack took it, False when none is configured.

    Raises ServiceUnavailable when Slack does not take it; the webhook's address is a secret and never in the text.
    """
    if settings.slack_webhook_url is None:
        log.info("no Slack is configured (TIRE_SLACK_WEBHOOK_URL); the message would be: %s", text)
        return False
    handlers = [ConnectionErrorRetryHandler(max_retry_count=2), RateLimitErrorRetryHandler(max_retry_count=2)]
    client = WebhookClient(settings.slack_webhook_url.get_secret_value(), timeout=10, retry_handlers=handlers)
    try:
        answer = client.send(text=text[:TEXT_MAX])
    except (SlackClientError, OSError) as error:
        raise ServiceUnavailable(f"Slack could not be reached ({type(error).__name__}). The message: {text}") from None
    if answer.status_code != 200:
        raise ServiceUnavailable(f"Slack refused the message: {answer.status_code} {answer.body[:100]}. It was: {text}")
    return True
