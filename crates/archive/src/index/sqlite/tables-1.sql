-- Streams of annotations. One that was deleted and created again is another one.
create table streams (
    id integer primary key,
    name text not null,
    created text not null,
    unique (name, created)
);

-- The sequence up to which a stream was read for a dataset, or for all of them (*).
create table cursors (
    stream integer not null references streams,
    datasets text not null,
    sequence integer not null,
    moved text not null default (strftime('%Y-%m-%dT%H:%M:%fZ')),
    primary key (stream, datasets)
);

create table annotations (
    annotation integer primary key,
    annotation_id text not null unique,
    stream integer not null references streams,
    sequence integer not null,
    dataset text not null,
    job_id text not null,
    labels text not null,
    bucket text,
    key text,
    version text,
    etag text,
    sha256 text not null,
    format text not null,
    width integer not null,
    height integer not null,
    size_bytes integer,
    model text not null,
    model_revision text,
    model_digest text not null,
    finished_at text
);
create index annotations_key on annotations (key);

create table results (
    id integer primary key,
    annotation integer not null references annotations on delete cascade,
    result integer not null,
    task text not null,
    prompt text not null,
    text text not null,
    answer text not null,
    finish_reason text,
    prompt_tokens integer not null,
    generated_tokens integer not null,
    loss real,
    unique (annotation, result)
);

create table entities (
    id integer primary key,
    annotation integer not null,
    result integer not null,
    entity integer not null,
    phrase text not null,
    span_start integer,
    span_end integer,
    score real,
    unique (annotation, result, entity),
    foreign key (annotation, result) references results (annotation, result) on delete cascade
);

create table boxes (
    id integer primary key,
    annotation integer not null,
    result integer not null,
    entity integer not null,
    number integer not null,
    -- Pixels of the picture. Null if a corner is not finite.
    x0 real,
    y0 real,
    x1 real,
    y1 real,
    score real,
    unique (annotation, result, entity, number),
    foreign key (annotation, result, entity) references entities (annotation, result, entity) on delete cascade
);

-- Full text. The triggers keep it right whoever changes the tables.
create virtual table text_search using fts5 (text, content = 'results', content_rowid = 'id',
    tokenize = 'porter unicode61');
create trigger results_inserted after insert on results begin
    insert into text_search (rowid, text) values (new.id, new.text);
end;
create trigger results_deleted after delete on results begin
    insert into text_search (text_search, rowid, text) values ('delete', old.id, old.text);
end;
create trigger results_updated after update of id, text on results begin
    insert into text_search (text_search, rowid, text) values ('delete', old.id, old.text);
    insert into text_search (rowid, text) values (new.id, new.text);
end;

create virtual table phrase_search using fts5 (phrase, content = 'entities', content_rowid = 'id',
    tokenize = 'porter unicode61');
create trigger entities_inserted after insert on entities begin
    insert into phrase_search (rowid, phrase) values (new.id, new.phrase);
end;
create trigger entities_deleted after delete on entities begin
    insert into phrase_search (phrase_search, rowid, phrase) values ('delete', old.id, old.phrase);
end;
create trigger entities_updated after update of id, phrase on entities begin
    insert into phrase_search (phrase_search, rowid, phrase) values ('delete', old.id, old.phrase);
    insert into phrase_search (rowid, phrase) values (new.id, new.phrase);
end;

-- Boxes by place and score. Numbers have 32 bits, and boxes are never smaller than those of the table. The score is -1 if
-- it is unknown.
create virtual table box_search using rtree (id, x0, x1, y0, y1, score, score_again);
create trigger boxes_inserted after insert on boxes when new.x0 is not null begin
    insert into box_search values
        (new.id, new.x0, new.x1, new.y0, new.y1, coalesce(new.score, -1), coalesce(new.score, -1));
end;
create trigger boxes_deleted after delete on boxes begin
    delete from box_search where id = old.id;
end;
create trigger boxes_updated after update of id, x0, y0, x1, y1, score on boxes begin
    delete from box_search where id = old.id;
    insert into box_search
        select new.id, new.x0, new.x1, new.y0, new.y1, coalesce(new.score, -1), coalesce(new.score, -1)
        where new.x0 is not null;
end;

-- Each box with its phrase, text and picture.
create view grounded_boxes as
select b.annotation, a.annotation_id, a.dataset, a.bucket, a.key, a.width, a.height, r.task, r.text, e.phrase,
    e.score as phrase_score, b.x0, b.y0, b.x1, b.y1, b.score, b.result, b.entity, b.number,
    b.id as box_id, e.id as phrase_id, r.id as text_id
from boxes b
join entities e using (annotation, result, entity)
join results r using (annotation, result)
join annotations a using (annotation);
