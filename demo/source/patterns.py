"""How Chatwoot (v4.15) writes: each user's action as the small transactions that Rails makes of it.

Rails runs its callbacks after each commit, so one action is several transactions, and other writers come in between.
Nothing holds the tables together: jobs die half-way, children outlive their parents. `PATTERNS` gives each action its
share of the traffic.
"""

import json
from collections.abc import Callable

from demo.source.world import LABELS, NOW, Conversation, Statement, Transaction, World, delete, insert, update

Pattern = Callable[[World], list[Transaction]]

INCOMING, OUTGOING, ACTIVITY, TEMPLATE = range(4)
OPEN, RESOLVED, PENDING, SNOOZED = range(4)
SENT, DELIVERED, READ = range(3)
INCOMING_EMAIL, INPUT_CSAT = 8, 9
NO_ATTRIBUTES = '"{}"'  # Rails encodes this column twice: a JSON string that holds a document


def new_conversation(world: World) -> list[Transaction]:
    """A customer writes for the first time, or again about something else."""
    known = world.conversation() if world.conversations and world.chance(0.3) else None
    inbox = world.inbox() if known is None else world.inbox(world.inboxes[known.inbox])
    account = world.inboxes[inbox]
    contact = world.next_id("contacts") if known is None or known.contact is None else known.contact
    link, number = world.next_id("contact_inboxes"), world.next_id("conversations")
    conversation = Conversation(id=number, account=account, inbox=inbox, contact=contact)
    first = _message(world, conversation, INCOMING, "Contact", contact)
    arrival = [
        insert("contact_inboxes", id=link, contact_id=contact, inbox_id=inbox, source_id=f"55009{link:08}", **_born())
    ]
    if known is None or known.contact is None:
        arrival.insert(0, _contact(world, contact, account))
    opening = insert(
        "conversations",
        id=number,
        account_id=account,
        inbox_id=inbox,
        contact_id=contact,
        contact_inbox_id=link,
        display_id=0,
        waiting_since=NOW,
        **_born(),
    )
    world.conversations.append(conversation)
    return [
        arrival,
        [opening, update("conversations", number, assignee_id=world.agent(account)), first],
        [_activity(conversation)],
        [update("contacts", contact, last_activity_at=NOW, updated_at=NOW)],
        [_message(world, conversation, ACTIVITY, None, None)],
        [_activity(conversation)],
    ]


def incoming_message(world: World) -> list[Transaction]:
    """A customer answers; the contact's row changes too, though nobody's name did."""
    conversation = world.conversation()
    reopened = [[update("conversations", conversation.id, status=OPEN, updated_at=NOW)]] if world.chance(0.1) else []
    return [
        [_message(world, conversation, INCOMING, "Contact", conversation.contact)],
        *reopened,
        [_activity(conversation)],
        [update("conversations", conversation.id, waiting_since=NOW)],
        [update("contacts", conversation.contact, last_activity_at=NOW, updated_at=NOW)],
    ]


def agent_reply(world: World) -> list[Transaction]:
    """An agent answers; then the channel reports its id and what became of the message."""
    conversation = world.conversation()
    sent = _message(world, conversation, OUTGOING, "User", world.agent(conversation.account))
    message = conversation.messages[-1]
    first_reply = {"first_reply_created_at": NOW} if world.chance(0.3) else {}
    return [
        [sent],
        [_activity(conversation)],
        [update("conversations", conversation.id, waiting_since=None, **first_reply)],
        [update("messages", message, source_id=f"wamid.{message}", updated_at=NOW)],
        [update("messages", message, status=DELIVERED, updated_at=NOW)],
        *([[update("messages", message, status=READ, updated_at=NOW)]] if world.chance(0.8) else []),
    ]


def bot_reply(world: World) -> list[Transaction]:
    """A bot, or the built-in assistant, answers."""
    conversation = world.conversation()
    sender = "AgentBot" if world.chance(0.7) else "Captain::Assistant"
    return [[_message(world, conversation, OUTGOING, sender, 1)], [_activity(conversation)]]


def private_note(world: World) -> list[Transaction]:
    """Agents talk among themselves."""
    conversation = world.conversation()
    note = _message(world, conversation, OUTGOING, "User", world.agent(conversation.account), private=True)
    return [[note], [_activity(conversation)]]


def agent_opens(world: World) -> list[Transaction]:
    """An agent looks at a conversation: no updated_at."""
    return [[update("conversations", world.conversation().id, agent_last_seen_at=NOW, assignee_last_seen_at=NOW)]]


def resolve(world: World) -> list[Transaction]:
    """A conversation is closed; waiting_since goes by update_column, without updated_at."""
    conversation = world.conversation()
    return [
        [update("conversations", conversation.id, status=RESOLVED, snoozed_until=None, updated_at=NOW)],
        [update("conversations", conversation.id, waiting_since=None)],
        [_message(world, conversation, ACTIVITY, None, None)],
        [_activity(conversation)],
    ]


def reopen(world: World) -> list[Transaction]:
    """A conversation is opened again, or set aside."""
    conversation = world.conversation()
    status = world.random.choice((OPEN, OPEN, PENDING, SNOOZED))
    return [
        [update("conversations", conversation.id, status=status, updated_at=NOW)],
        [_message(world, conversation, ACTIVITY, None, None)],
        [_activity(conversation)],
    ]


def survey(world: World) -> list[Transaction]:
    """A survey is sent and answered, some answers are corrected; the conversation's row does not notice the answer."""
    conversation = world.conversation()
    question = _message(world, conversation, TEMPLATE, None, None, content_type=INPUT_CSAT)
    message, answer, rating = (
        conversation.messages[-1],
        world.next_id("csat_survey_responses"),
        world.random.randint(1, 5),
    )
    submitted = json.dumps(json.dumps({"submitted_values": {"csat_survey_response": {"rating": rating}}}))
    answered = insert(
        "csat_survey_responses",
        id=answer,
        account_id=conversation.account,
        conversation_id=conversation.id,
        message_id=message,
        rating=rating,
        contact_id=conversation.contact or 0,
        **_born(),
    )
    corrected = update("csat_survey_responses", answer, rating=5, feedback_message=world.text(), updated_at=NOW)
    return [
        [question],
        [_activity(conversation)],
        [update("messages", message, content_attributes=submitted, updated_at=NOW)],
        [answered],
        *([[corrected]] if world.chance(0.3) else []),
    ]


def labels(world: World) -> list[Transaction]:
    """Labels are put on or taken off; a label that is deleted everywhere leaves updated_at alone."""
    chosen = ", ".join(world.random.sample(LABELS, world.random.randint(0, 3))) or None
    stamp = {} if world.chance(0.1) else {"updated_at": NOW}
    return [[update("conversations", world.conversation().id, cached_label_list=chosen, **stamp)]]


def contact_edit(world: World) -> list[Transaction]:
    """A contact gets another name, and nothing else changes."""
    name = f"Cliente Renomeado {world.random.randint(1, 10_000)}"
    return [[update("contacts", world.conversation().contact, name=name, updated_at=NOW)]]


def contact_merge(world: World) -> list[Transaction]:
    """Two contacts become one: the largest ordinary transaction."""
    base, merged = world.conversation(), world.conversation()
    if None in (base.contact, merged.contact) or base.contact == merged.contact or base.account != merged.account:
        return contact_edit(world)
    gone, stays = merged.contact, base.contact
    for conversation in world.conversations:
        if conversation.contact == gone:
            conversation.contact = stays
    sender = "UPDATE messages SET sender_id = %s WHERE sender_type = 'Contact' AND sender_id = %s"
    return [
        [
            update("conversations", gone, "contact_id", contact_id=stays, updated_at=NOW),
            Statement(sender, (stays, gone)),
            update("contact_inboxes", gone, "contact_id", contact_id=stays, updated_at=NOW),
            delete("contacts", gone),
            update("contacts", stays, custom_attributes='{"unido": true}', updated_at=NOW),
        ]
    ]


def contact_deletion(world: World) -> list[Transaction]:
    """The contact goes first, its links and conversations later."""
    conversation = world.conversation()
    contact = conversation.contact
    return [
        [delete("contacts", contact)],
        [delete("contact_inboxes", contact, "contact_id")],
        *_deletion(world, conversation),
    ]


def conversation_deletion(world: World) -> list[Transaction]:
    """The conversation goes first; one job for each child follows, unless the jobs die."""
    return _deletion(world, world.conversation())


def message_notice(world: World) -> list[Transaction]:
    """A message is 'deleted' by an agent: its text becomes a notice."""
    messages = world.conversation().messages
    if not messages:
        return incoming_message(world)
    notice = json.dumps(json.dumps({"deleted": True}))
    message, text = world.random.choice(messages), "Esta mensagem foi apagada"
    return [[update("messages", message, content=text, content_attributes=notice, updated_at=NOW)]]


def move(world: World) -> list[Transaction]:
    """A conversation changes its inbox with all its messages, mostly within its account."""
    conversation = world.conversation()
    inbox = world.inbox(None if world.chance(0.3) else conversation.account)
    conversation.inbox = inbox
    return [
        [
            update("conversations", conversation.id, inbox_id=inbox, updated_at=NOW),
            update("messages", conversation.id, "conversation_id", inbox_id=inbox),
        ]
    ]


def long_email(world: World) -> list[Transaction]:
    """An e-mail so long that PostgreSQL stores it out of line."""
    conversation = world.conversation()
    text = world.long_text()
    mail = json.dumps(json.dumps({"email": {"text_content": text}}))
    sent = _message(
        world,
        conversation,
        INCOMING,
        "Contact",
        conversation.contact,
        text=text,
        content_type=INCOMING_EMAIL,
        content_attributes=mail,
    )
    world.long_emails.append(conversation.messages[-1])
    return [[sent], [_activity(conversation)]]


def long_email_touched(world: World) -> list[Transaction]:
    """A long e-mail changes in its small columns: the stream does not carry the text."""
    if not world.long_emails:
        return long_email(world)
    message = world.random.choice(world.long_emails)
    return [[update("messages", message, status=world.random.choice((SENT, DELIVERED, READ)), updated_at=NOW)]]


def link_forgotten(world: World) -> list[Transaction]:
    """A contact's link loses its inbox, or goes altogether."""
    contact = world.conversation().contact
    if world.chance(0.5):
        return [[update("contact_inboxes", contact, "contact_id", inbox_id=None, updated_at=NOW)]]
    return [[delete("contact_inboxes", contact, "contact_id")]]


def inbox_renamed(world: World) -> list[Transaction]:
    """One row, and every conversation of the inbox shows another name."""
    name = f"Caixa {world.random.randint(1, 1000)}"
    return [[update("inboxes", world.inbox(), name=name, updated_at=NOW)]]


PATTERNS: dict[Pattern, float] = {
    incoming_message: 34,
    agent_reply: 26,
    new_conversation: 8,
    resolve: 5,
    agent_opens: 4,
    bot_reply: 4,
    reopen: 3,
    private_note: 3,
    labels: 3,
    contact_edit: 3,
    survey: 2,
    move: 1.5,
    conversation_deletion: 1.5,
    contact_merge: 1,
    message_notice: 1,
    long_email: 0.5,
    long_email_touched: 1,
    link_forgotten: 1,
    contact_deletion: 0.5,
    inbox_renamed: 0.2,
}


def choose(world: World) -> Pattern:
    """The next action, by its share of the traffic."""
    if not world.conversations:
        return new_conversation
    return world.random.choices(list(PATTERNS), weights=list(PATTERNS.values()))[0]


def _deletion(world: World, conversation: Conversation) -> list[Transaction]:
    if world.chance(0.9):  # else somebody still has it open and goes on writing
        world.conversations = [known for known in world.conversations if known is not conversation]
    jobs = [[delete("messages", message)] for message in conversation.messages]
    jobs.append([delete("csat_survey_responses", conversation.id, "conversation_id")])
    if world.chance(0.2):  # the jobs die
        jobs = jobs[: world.random.randint(0, len(jobs) - 1)]
    return [[delete("conversations", conversation.id)], *jobs]


def _message(
    world: World,
    conversation: Conversation,
    kind: int,
    sender_type: str | None,
    sender: int | None,
    *,
    text: str | None = None,
    **more: object,
) -> Statement:
    """A new message, also remembered in its conversation; `more` are further columns."""
    number = world.next_id("messages")
    conversation.messages.append(number)
    content = text or world.text()
    columns = {"content_attributes": NO_ATTRIBUTES, **more}
    return insert(
        "messages",
        id=number,
        content=content,
        processed_message_content=content,
        account_id=conversation.account,
        inbox_id=conversation.inbox,
        conversation_id=conversation.id,
        message_type=kind,
        sender_type=sender_type,
        sender_id=sender,
        **columns,
        **_born(),
    )


def _contact(world: World, number: int, account: int) -> Statement:
    return insert(
        "contacts",
        id=number,
        account_id=account,
        name=f"Cliente Novo {number}",
        phone_number=f"+55009{number:08}",  # no area code 00 exists
        email=f"novo{number}@exemplo.invalid" if world.chance(0.4) else None,
        contact_type=1,
        **_born(),
    )


def _activity(conversation: Conversation) -> Statement:
    return update("conversations", conversation.id, last_activity_at=NOW, updated_at=NOW)


def _born() -> dict[str, object]:
    return {"created_at": NOW, "updated_at": NOW}
