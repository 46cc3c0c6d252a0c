-- The invented history of demo/source/seed.py, which sets seed.tenants, seed.inboxes_per_tenant, seed.conversations,
-- seed.messages_per_conversation and seed.seed for this transaction. Every choice is a hash of (seed, row, salt), so that
-- neither plans nor parallel workers change what is written.

SET LOCAL synchronous_commit = off;
SET LOCAL jit = off;

CREATE FUNCTION pg_temp.setting(name text) RETURNS integer LANGUAGE sql STABLE
RETURN current_setting('seed.' || name)::integer;

-- A number in (0, 1) for a row and a purpose.
CREATE FUNCTION pg_temp.roll(n bigint, salt bigint) RETURNS float8 LANGUAGE sql STABLE
RETURN ((hashint8extended(n * 4096 + salt, current_setting('seed.seed')::bigint) & 9007199254740991) + 0.5)
    / 9007199254740992.0::float8;

CREATE FUNCTION pg_temp.pick(words text[], x float8) RETURNS text LANGUAGE sql IMMUTABLE
RETURN words[1 + floor(x * cardinality(words))::integer];

CREATE FUNCTION pg_temp.phrase(x float8) RETURNS text LANGUAGE sql IMMUTABLE
RETURN pg_temp.pick(ARRAY[
    'Bom dia! Gostaria de saber mais sobre os planos.', 'Qual é o valor da mensalidade?', 'Vocês abrem aos sábados?',
    'Posso agendar uma visita para amanhã às 15h?', 'Ainda não recebi a confirmação da matrícula.', 'Obrigada 😊',
    'Matrícula confirmada, seja bem-vinda!',
    'Perfeito, fico no aguardo.', 'O boleto venceu ontem; consigo pagar hoje?', 'Só um instante, vou verificar.',
    'A visita ficou marcada para quinta-feira.', 'Segue o endereço: Rua das Acácias, 0 (inventada).', 'Não entendi.',
    'Prefiro falar por telefone.', 'Tem estacionamento no local?', 'Enviei os documentos "assinados" em anexo.',
    'Caminho: C:\recibos\maio', 'Não tenho interesse no momento.', 'Vou conversar com a família e retorno.',
    E'Primeira linha\nsegunda linha\tcom tabulação', 'Até logo 👋🏽', 'Desconto de 10 % à vista, certo?', 'Sim', 'Ok',
    'O professor já confirmou a aula experimental de sexta-feira à noite, na unidade do centro, com todos os materiais.'
], x);

-- Random letters that hardly compress, for long e-mails.
CREATE FUNCTION pg_temp.noise(n bigint, size integer) RETURNS text LANGUAGE sql STABLE
RETURN (
    SELECT left(string_agg(translate(encode(sha512(format('%s/%s/%s', pg_temp.setting('seed'), n, i)::bytea), 'base64'),
                                     E'\n=', ''), ' ' ORDER BY i), size)
    FROM generate_series(1, size / 86 + 1) AS i
);

INSERT INTO accounts (id, name, created_at, updated_at, locale)
SELECT k, 'Escola Exemplo ' || k, '2025-06-01', '2025-06-01', 15 FROM generate_series(1, pg_temp.setting('tenants')) AS k;

-- The last inbox of a tenant that has several is its e-mail inbox.
INSERT INTO inboxes (id, channel_id, account_id, name, created_at, updated_at, channel_type, timezone)
SELECT i, i, 1 + (i - 1) / per, CASE WHEN mail THEN 'E-mail ' ELSE 'WhatsApp ' END || i, '2025-06-01', '2025-06-01',
       CASE WHEN mail THEN 'Channel::Email' ELSE 'Channel::Whatsapp' END, 'America/Sao_Paulo'
FROM pg_temp.setting('inboxes_per_tenant') AS per,
     generate_series(1, pg_temp.setting('tenants') * per) AS i,
     LATERAL (SELECT per > 1 AND i % per = 0) AS channel (mail);

INSERT INTO users (id, uid, email, name, display_name, encrypted_password, tokens, created_at, updated_at, type)
SELECT u, format('agente%s@exemplo.invalid', u), format('agente%s@exemplo.invalid', u), 'Agente ' || u, 'Agente ' || u,
       'secret-that-must-stay', json_build_object('client', md5(u::text)), '2025-06-01', '2025-06-01', 'User'
FROM generate_series(1, pg_temp.setting('tenants') * 6) AS u;

INSERT INTO teams (id, name, account_id, created_at, updated_at)
SELECT t, pg_temp.pick(ARRAY['vendas', 'suporte'], (t % 2) / 2.0), 1 + (t - 1) / 2, '2025-06-01', '2025-06-01'
FROM generate_series(1, pg_temp.setting('tenants') * 2) AS t;

-- One contact for 1.1 conversations, at one inbox each; the first inboxes have the most.
CREATE TEMPORARY TABLE people ON COMMIT DROP AS
SELECT c AS id, inbox.id AS inbox_id, inbox.account_id, '2025-06-02'::timestamp + pg_temp.roll(c, 2) * interval '300 days' AS at
FROM generate_series(1, greatest(1, ceil(pg_temp.setting('conversations') / 1.1)::integer)) AS c
JOIN inboxes AS inbox
  ON inbox.id = 1 + floor(pg_temp.setting('tenants') * pg_temp.setting('inboxes_per_tenant') * pg_temp.roll(c, 1) ^ 1.4);

INSERT INTO contacts (id, name, email, phone_number, account_id, created_at, updated_at, last_activity_at,
                      additional_attributes, identifier, custom_attributes, contact_type)
SELECT id,
       pg_temp.pick(ARRAY['Ána', 'Bento', 'Cecília', 'Davi', 'Estêvão', 'Flor', 'Graça', 'Hélio', 'Íris'], pg_temp.roll(id, 3))
           || ' ' || pg_temp.pick(ARRAY['Inventado', 'Exemplo', 'Fictício', 'D''Ensaio', 'Teste'], pg_temp.roll(id, 4)),
       CASE WHEN pg_temp.roll(id, 5) < 0.4 THEN format('cliente%s@exemplo.invalid', id) END,
       CASE WHEN pg_temp.roll(id, 6) < 0.9 THEN '+55009' || lpad(id::text, 8, '0') END, -- no area code 00 exists
       account_id, at, at, at,
       CASE WHEN pg_temp.roll(id, 7) < 0.3 THEN '{"city": "Cidade Exemplo", "social_profiles": {}}' ELSE '{}' END::jsonb,
       CASE WHEN pg_temp.roll(id, 8) < 0.1 THEN 'crm-' || id END, '{}', 1
FROM people ORDER BY id;

INSERT INTO contact_inboxes (id, contact_id, inbox_id, source_id, created_at, updated_at, pubsub_token)
SELECT id, id, CASE WHEN pg_temp.roll(id, 9) < 0.997 THEN inbox_id END, '55009' || lpad(id::text, 8, '0'), at, at,
       md5('token ' || id)
FROM people ORDER BY id;

INSERT INTO conversations (id, account_id, inbox_id, status, assignee_id, created_at, updated_at, contact_id, display_id,
                           contact_last_seen_at, agent_last_seen_at, additional_attributes, contact_inbox_id, uuid,
                           last_activity_at, team_id, snoozed_until, custom_attributes, first_reply_created_at, priority,
                           waiting_since, cached_label_list)
SELECT n, person.account_id, person.inbox_id, kind.status,
       CASE WHEN pg_temp.roll(n, 11) < 0.85 THEN (person.account_id - 1) * 6 + 1 + floor(6 * pg_temp.roll(n, 12)) END,
       span.born, span.last,
       CASE WHEN pg_temp.roll(n, 13) < 0.998 THEN person.id END, 0,
       CASE WHEN pg_temp.roll(n, 14) < 0.6 THEN span.last END, CASE WHEN pg_temp.roll(n, 15) < 0.8 THEN span.last END,
       CASE WHEN pg_temp.roll(n, 16) < 0.2 THEN '{"referer": "https://exemplo.invalid/página?x=1"}' ELSE '{}' END::jsonb,
       person.id, md5(format('conversation %s of seed %s', n, pg_temp.setting('seed')))::uuid, span.last,
       CASE WHEN pg_temp.roll(n, 17) < 0.3 THEN (person.account_id - 1) * 2 + 1 + floor(2 * pg_temp.roll(n, 18)) END,
       CASE WHEN kind.status = 3 THEN span.last + interval '40 days' END, '{}',
       CASE WHEN pg_temp.roll(n, 19) < 0.8 THEN span.born + interval '7 minutes' END,
       CASE WHEN pg_temp.roll(n, 20) < 0.1 THEN floor(4 * pg_temp.roll(n, 21)) END,
       CASE WHEN kind.status = 0 AND pg_temp.roll(n, 22) < 0.3 THEN span.last END,
       CASE WHEN pg_temp.roll(n, 23) < 0.2 THEN pg_temp.pick(ARRAY['lead', 'lead, visita', 'aluno'], pg_temp.roll(n, 24)) END
FROM generate_series(1, pg_temp.setting('conversations')) AS n
JOIN people AS person ON person.id = 1 + floor((n - 1) / 1.1),
     LATERAL (SELECT person.at + pg_temp.roll(n, 25) * interval '100 days' AS born) AS start,
     LATERAL (SELECT start.born, start.born + pg_temp.roll(n, 26) * interval '3 days' AS last) AS span,
     LATERAL (SELECT CASE WHEN x < 0.94 THEN 0 WHEN x < 0.98 THEN 1 WHEN x < 0.99 THEN 2 ELSE 3 END AS status
              FROM pg_temp.roll(n, 27) AS x) AS kind
ORDER BY n;

-- How many messages a conversation has is log-normal: with 12 on average, the median is 8, 1 in 100 has 67 and more.
CREATE TEMPORARY TABLE planned ON COMMIT DROP AS
SELECT row_number() OVER (ORDER BY conversation_id, k) AS id, conversation.*, k,
       least(k - 1, greatest(0, k - 1 - (pg_temp.roll(conversation_id, k + 400) < 0.03)::integer)) AS step
FROM (
    SELECT id, account_id, inbox_id, contact_id, created_at, last_activity_at - created_at AS lasts, assignee_id,
           least(375, greatest(1, round(
               pg_temp.setting('messages_per_conversation') * 0.655
               * exp(0.98 * sqrt(-2 * ln(pg_temp.roll(id, 31))) * cos(2 * pi() * pg_temp.roll(id, 32)))
           )))::integer AS size
    FROM conversations
) AS conversation (conversation_id, account_id, inbox_id, contact_id, born, lasts, assignee_id, size),
LATERAL generate_series(1, conversation.size) AS k;

INSERT INTO messages (id, content, account_id, inbox_id, conversation_id, message_type, created_at, updated_at, private,
                      status, source_id, content_type, content_attributes, sender_type, sender_id,
                      additional_attributes, processed_message_content)
SELECT p.id, body.content, p.account_id, p.inbox_id, p.conversation_id,
       CASE kind.who WHEN 'contact' THEN 0 WHEN 'system' THEN 2 WHEN 'template' THEN 3 ELSE 1 END, moment.at, moment.at,
       kind.who = 'note', CASE WHEN kind.who = 'agent' THEN 2 ELSE 0 END,
       CASE WHEN kind.who IN ('contact', 'agent') THEN 'wamid.' || md5(p.id::text) END,
       CASE WHEN body.long THEN 8 ELSE 0 END,
       CASE WHEN body.long  -- Rails encodes twice: a JSON string that holds a document
            THEN to_json(json_build_object('email', json_build_object('text_content', body.content))::text)
            WHEN pg_temp.roll(p.id, 41) < 0.0005 THEN '{"raw": "a\u0000b"}'
            WHEN pg_temp.roll(p.id, 42) < 0.01 THEN NULL
            ELSE '"{}"' END,
       CASE kind.who WHEN 'contact' THEN 'Contact' WHEN 'bot' THEN 'AgentBot' WHEN 'captain' THEN 'Captain::Assistant'
                     WHEN 'system' THEN NULL WHEN 'template' THEN NULL ELSE 'User' END,
       CASE kind.who WHEN 'contact' THEN p.contact_id WHEN 'bot' THEN 1 WHEN 'captain' THEN 1 WHEN 'system' THEN NULL
                     WHEN 'template' THEN NULL ELSE coalesce(p.assignee_id, (p.account_id - 1) * 6 + 1) END,
       '{}', body.content
FROM planned AS p,
     -- OFFSET 0 keeps a subquery as it is: pulled up, its expression would be computed again at each use.
     LATERAL (SELECT CASE WHEN p.k = 1 AND x < 0.9 THEN 'contact' WHEN x < 0.49 THEN 'contact' WHEN x < 0.83 THEN 'agent'
                          WHEN x < 0.86 THEN 'note' WHEN x < 0.905 THEN 'bot' WHEN x < 0.92 THEN 'captain'
                          WHEN x < 0.98 THEN 'system' ELSE 'template' END AS who
              FROM pg_temp.roll(p.id, 43) AS x OFFSET 0) AS kind,
     LATERAL (SELECT p.inbox_id % pg_temp.setting('inboxes_per_tenant') = 0 AND kind.who = 'contact'
                     AND pg_temp.roll(p.id, 44) < 0.002 AS long) AS mail,
     LATERAL (SELECT mail.long,
                     CASE WHEN mail.long THEN pg_temp.noise(p.id, 50000 + floor(100000 * pg_temp.roll(p.id, 45))::integer)
                          WHEN kind.who = 'system' THEN 'Conversa atribuída a Agente ' || coalesce(p.assignee_id, 1)
                          WHEN pg_temp.roll(p.id, 46) < 0.02 THEN NULL  -- an attachment without text
                          ELSE concat_ws(' ', pg_temp.phrase(pg_temp.roll(p.id, 47)),
                                         CASE WHEN pg_temp.roll(p.id, 48) < 0.8 THEN pg_temp.phrase(pg_temp.roll(p.id, 49)) END,
                                         CASE WHEN pg_temp.roll(p.id, 50) < 0.6 THEN pg_temp.phrase(pg_temp.roll(p.id, 51)) END)
                     END AS content OFFSET 0) AS body,
     LATERAL (SELECT p.born + p.lasts * p.step / p.size AS at) AS moment
ORDER BY p.id;

SELECT setval(pg_get_serial_sequence(name, 'id'), coalesce(top, 1), top IS NOT NULL)
FROM (VALUES ('accounts', (SELECT max(id) FROM accounts)), ('inboxes', (SELECT max(id) FROM inboxes)),
             ('users', (SELECT max(id) FROM users)), ('teams', (SELECT max(id) FROM teams)),
             ('contacts', (SELECT max(id) FROM contacts)), ('contact_inboxes', (SELECT max(id) FROM contact_inboxes)),
             ('conversations', (SELECT max(id) FROM conversations)), ('messages', (SELECT max(id) FROM messages))
     ) AS used (name, top);

-- Surveys: 2 % of the conversations, some of them twice.
WITH asked AS (
    INSERT INTO messages (content, account_id, inbox_id, conversation_id, message_type, created_at, updated_at, content_type,
                          content_attributes)
    SELECT 'Como você avalia o atendimento?', account_id, inbox_id, id, 3, last_activity_at, last_activity_at, 9, '"{}"'
    FROM conversations, generate_series(1, 2) AS round
    WHERE pg_temp.roll(id, 61) < 0.02 AND (round = 1 OR pg_temp.roll(id, 62) < 0.1)
    ORDER BY id, round
    RETURNING id, account_id, conversation_id, created_at
)
INSERT INTO csat_survey_responses (account_id, conversation_id, message_id, rating, feedback_message, contact_id, created_at,
                                   updated_at)
SELECT asked.account_id, asked.conversation_id, asked.id, 1 + floor(5 * pg_temp.roll(asked.id, 63)),
       CASE WHEN pg_temp.roll(asked.id, 64) < 0.5 THEN pg_temp.phrase(pg_temp.roll(asked.id, 65)) END,
       conversation.contact_id, asked.created_at, asked.created_at
FROM asked JOIN conversations AS conversation ON conversation.id = asked.conversation_id
WHERE conversation.contact_id IS NOT NULL
ORDER BY asked.id;

-- What jobs that died left behind: messages without their conversation, conversations without their contact.
DELETE FROM conversations WHERE pg_temp.roll(id, 71) < 0.002;
DELETE FROM contacts WHERE pg_temp.roll(id, 72) < 0.002;
