-- Rows are found by a small index from now on. As a tree of whole rows, most of them were larger than it keeps in place:
-- every comparison on the way to a row read the pages of another one.
create table rows_by_key (
    kind       text    not null,
    project    text    not null,
    name       text    not null,
    owner      text,
    revision   integer not null,
    meta       text    not null,
    spec       text    not null,
    operations text    not null,
    status     text,
    primary key (kind, project, name)
) strict;

insert into rows_by_key select kind, project, name, owner, revision, meta, spec, operations, status from rows;

drop table rows;

alter table rows_by_key rename to rows;

create index rows_by_owner on rows (kind, owner) where owner is not null;
