-- A session sees and writes the rows of the tenant that app.current_tenant_id names, and none without it. FORCE binds
-- the tables' owner too. The applier's policy is RESTRICTIVE: a permissive one that an adopted table brings along can't
-- widen it. The setting is read in a sub-select, so that it is evaluated once for a statement, not for each row.

ALTER TABLE inboxes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON inboxes
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));
CREATE POLICY applier_tenant_rows ON inboxes AS RESTRICTIVE TO :"applier"
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));

ALTER TABLE contacts ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON contacts
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));
CREATE POLICY applier_tenant_rows ON contacts AS RESTRICTIVE TO :"applier"
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));

ALTER TABLE conversations ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON conversations
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));
CREATE POLICY applier_tenant_rows ON conversations AS RESTRICTIVE TO :"applier"
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));

ALTER TABLE contact_inboxes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON contact_inboxes
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));
CREATE POLICY applier_tenant_rows ON contact_inboxes AS RESTRICTIVE TO :"applier"
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));

ALTER TABLE messages ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON messages
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));
CREATE POLICY applier_tenant_rows ON messages AS RESTRICTIVE TO :"applier"
    USING (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));

-- Tenants: its own row for each; all for the applier, who serves them. Not forced: the owner keeps the list.
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON tenants FOR SELECT TO replication_readers
    USING (id = (SELECT NULLIF(current_setting('app.current_tenant_id', true), '')::integer));
CREATE POLICY applier_reads ON tenants FOR SELECT TO :"applier"
    USING (true);

-- These two have no row-level security of ours; where an adopted one has, the applier must still see all.
CREATE POLICY applier_rows ON inbox_tenant_mapping TO :"applier"
    USING (true)
    WITH CHECK (true);
CREATE POLICY applier_rows ON etl_control TO :"applier"
    USING (true)
    WITH CHECK (true);
