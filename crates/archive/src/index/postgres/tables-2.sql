-- Full text of answers: a text contains its prompt, which names what may not be in the picture.
alter table groundling.results drop column words;
alter table groundling.results add column
    -- A tsvector holds 1 MB.
    words tsvector not null generated always as (to_tsvector('english', left(answer, 100000))) stored;
create index on groundling.results using gin (words);
